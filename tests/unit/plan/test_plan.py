"""The plan's formulas against what they stand for: built models, cached videos, measured trainings."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import get_peft_model
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

import measured_training as measured
from viarl.config.check import check
from viarl.config.runs import overlaid
from viarl.files import write_json
from viarl.models.adapters import lora_config
from viarl.models.settings import Lora
from viarl.plan.estimates import FOOTAGE, GB, NEEDLE, Estimate, Plan
from viarl.plan.formulas import checkpoint_bytes, fitted, video_bytes
from viarl.plan.shapes import PUBLISHED, STAND_INS, from_config, shape_of
from viarl.plan.sizes import Sizes, published_size, sizes
from viarl.stages import cache_frames, make_needle, plan
from viarl.stand_ins import answerer
from viarl.stand_ins.architecture import Size, build_model, build_tokenizer
from viarl.tracking.record import Tracking
from viarl.video.encode import fitted as really_fitted

REPOSITORY = Path(__file__).resolve().parents[3]
DEFAULT = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
ONE_GPU = {"dataset": "local", "benchmarks": DEFAULT["benchmarks"], "launcher": DEFAULT["launcher"]}
PAPER = overlaid(DEFAULT, yaml.safe_load((REPOSITORY / "presets" / "paper.yaml").read_text()) | ONE_GPU)
SETS = Sizes(
    {"local_train": (8000, 8000), "needle": (500, 1000), "needle_shifted": (300, 600), "needle_train": (10, 20)}
)
PROFILE = REPOSITORY / "slurm" / "config.yaml"


def qwen(shape: Any) -> Qwen2_5_VLConfig:
    """Return the configuration of a published model of that shape."""
    text = {
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "intermediate_size": shape.mlp,
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": shape.tied,
    }
    vision = {"hidden_size": 1280, "intermediate_size": shape.vision_mlp, "out_hidden_size": shape.hidden}
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=shape.tied)


@pytest.mark.parametrize(("size", "published"), [("3B", 3_754_622_976), ("7B", 8_292_166_656), ("72B", 73_410_777_344)])
def test_weights_are_counted_exactly(size: str, published: int, tmp_path: Path) -> None:
    shape, config = PUBLISHED[size], qwen(PUBLISHED[size])
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(config)
    assert sum(weight.numel() for weight in model.parameters()) == shape.weights == published
    assert sum(weight.numel() for weight in model.model.visual.parameters()) == shape.vision
    config.save_pretrained(tmp_path)
    assert shape_of(str(tmp_path)) == shape == shape_of(f"Qwen/Qwen2.5-VL-{size}-Instruct@main")


def test_the_flat_config_of_the_hub_is_read_and_others_are_unknown() -> None:
    shape = PUBLISHED["3B"]
    nested = qwen(shape).to_dict()
    flat = {**nested.pop("text_config"), **nested, "model_type": "qwen2_5_vl"}
    assert from_config(flat) == shape
    assert from_config({"model_type": "qwen3_vl"}) is None and shape_of("a/b") is None


def test_adapters_are_counted_exactly() -> None:
    tokenizer = build_tokenizer(["a b c"], 10)
    for vision in (False, True):
        model = build_model(tokenizer, Size())
        shape = from_config(model.config.to_dict())
        assert shape is not None and sum(weight.numel() for weight in model.parameters()) == shape.weights
        adapted = get_peft_model(model, lora_config(Lora(enabled=True, rank=4, alpha=8), vision))
        assert adapted.get_nb_trainable_parameters()[0] == shape.adapters(4, vision)


def test_stand_ins_that_are_not_built_yet_are_of_their_size() -> None:
    for role, size in (("selector", Size()), ("answerer", answerer.SIZE)):
        built = from_config(build_model(build_tokenizer(["a b c"], 10), size).config.to_dict())
        assert built is not None and abs(built.weights / STAND_INS[role].weights - 1) < 0.05
        assert shape_of(f"nowhere/{role}", role) == STAND_INS[role]


def test_a_cached_video_is_as_large_as_planned(tmp_path: Path) -> None:
    """A real set within a fifth, in two sizes of its frames; and what was measured of footage at the paper's scale."""
    tracking = Tracking(record=tmp_path / "record.jsonl", root=tmp_path, defer_below_s=1e9)
    items, videos = tmp_path / "items.jsonl", tmp_path / "videos.jsonl"
    make_needle.main(
        make_needle.Settings(
            items=items, videos=videos, set="needle", split="test", count=6, seed=3, questions_per_video=1,
            tracking=tracking,
        )
    )  # fmt: skip
    for number, changes in enumerate(({}, {"candidates": 16, "answerer_pixels": 42})):
        frames = {**DEFAULT["frames"], **changes}
        names = ("candidates", "selector_pixels", "answerer_pixels", "jpeg_quality", "reader")
        manifest = tmp_path / str(number) / "0.json"
        how = {name: frames[name] for name in names} | {"shard": 0, "shards": 1, "timeout_s": 60, "max_bad_share": 0.0}
        cache_frames.main(cache_frames.Settings(videos=videos, manifest=manifest, tracking=tracking, **how))
        found = [path.stat().st_size for path in manifest.parent.rglob("*.safetensors")]
        assert len(found) == 6
        assert sum(found) / 6 == pytest.approx(video_bytes(frames, NEEDLE), rel=0.2)
    assert video_bytes(PAPER["frames"], FOOTAGE) == pytest.approx(105e9 / 8000, rel=0.2)
    for form, pixels in ((FOOTAGE, 896), (FOOTAGE, 112), (NEEDLE, 896)):
        assert fitted(form, pixels)[::-1] == really_fitted(form[1], form[0], pixels)


@pytest.mark.parametrize(("stage", "checkpointing"), [("train_selector", False), ("tune_answerer", True)])
def test_measured_memory_is_near_the_plan(stage: str, checkpointing: bool, tmp_path: Path) -> None:
    """A training of 15 million weights on the CPU, in a process of its own."""
    command = [sys.executable, measured.__file__, str(tmp_path), stage, str(checkpointing)]
    paths = f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'workflow'}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    peak = json.loads(done.stdout.splitlines()[-1])
    model = build_model(build_tokenizer(measured.TEXTS, 50), measured.SIZE)
    shape = from_config(model.config.to_dict())
    config = overlaid(
        DEFAULT,
        {
            "frames": {
                "candidates": measured.FRAMES,
                "selected": measured.FRAMES,
                "selector_pixels": measured.PIXELS,
                "answerer_pixels": measured.PIXELS,
            },
            "selector": {
                "max_new_tokens": measured.NEW_TOKENS,
                "training": {
                    "prompts_per_step": 1,
                    "group_size": measured.GROUP_SIZE,
                    "gradient_checkpointing": checkpointing,
                },
            },
            "answerer": {
                "max_new_tokens": 21,
                "batch_size": 1,
                "tuning": {"batch_size": measured.BATCH, "train_vision": True, "gradient_checkpointing": checkpointing},
            },
        },
    )
    assert shape is not None
    estimate = getattr(Plan(config, shape, shape, SETS, "needle_train"), stage)()
    planned = sum(size for part, size in estimate.gpu.items() if part != "answerer")  # there is none in the measurement
    print(f"{stage}, checkpointing {checkpointing}: measured {peak / 1e6:.0f} MB, planned {planned / 1e6:.0f} MB")
    assert peak / 1.6 < planned < 1.6 * peak


def paper(**overlay: Any) -> dict[str, Estimate]:
    config = overlaid(PAPER, overlay)
    return {one.stage: one for one in Plan(config, PUBLISHED["3B"], PUBLISHED["7B"], SETS, "local_train").estimates()}


def test_the_papers_scale_and_what_makes_it_smaller() -> None:
    alone = paper()
    training = alone["train_selector"]
    assert list(alone) == ["cache_frames", "score_frames", "filter_guessable", "train_selector", "select_frames",
                           "tune_answerer", "evaluate", "answer_questions"]  # fmt: skip
    # weights, gradients and moments of 3B in full: the tower has no gradients
    known = 4 * 3_754_622_976 + 12 * 3_085_938_688
    assert sum(training.gpu[part] for part in ("weights", "gradients", "AdamW")) == known
    assert training.gpu_bytes > 80 * GB > paper(selector={"lora": {"enabled": True}})["train_selector"].gpu_bytes
    sharded = paper(launcher={"processes": 4, "config": "fsdp2"})["train_selector"]
    assert sharded.processes == 4 and sharded.gpu_bytes < 50 * GB and sharded.seconds < training.seconds / 2
    # two micro-batches, under no_sync but for the last: with one, or ZeRO-3, gradients lie in shards too
    assert sharded.gpu["gradients"] == training.gpu["gradients"]
    one, zero = {"groups_per_microbatch": 2}, {"processes": 4, "config": "deepspeed_zero3"}
    for split in (paper(launcher=zero | {"config": "fsdp2"}, selector={"training": one}), paper(launcher=zero)):
        assert split["train_selector"].gpu["gradients"] == training.gpu["gradients"] / 4
    whole = paper(launcher={"processes": 4, "config": "ddp"})["train_selector"]
    assert whole.gpu["AdamW"] == training.gpu["AdamW"] == 4 * sharded.gpu["AdamW"]
    without = paper(selector={"training": {"gradient_checkpointing": False}})["train_selector"]
    assert without.gpu["activations and logits"] > 3 * training.gpu["activations and logits"]
    assert without.seconds < training.seconds
    assert paper(selector={"training": {"beta": 0.0}})["train_selector"].gpu.keys() == training.gpu.keys() - {
        "reference"
    }
    more = paper(frames={"candidates": 256, "selected": 16})
    assert more["cache_frames"].disk == 2 * alone["cache_frames"].disk
    assert more["evaluate"].seconds > 1.5 * alone["evaluate"].seconds
    assert checkpoint_bytes(PUBLISHED["3B"], 16, False, 2) < 0.02 * checkpoint_bytes(PUBLISHED["3B"], 0, False, 2)
    none = paper(cycles=0)
    assert list(none) == ["cache_frames", "score_frames", "select_frames", "evaluate", "answer_questions"]
    untuned = paper(answerer={"tuning": {"steps": 0}})
    assert untuned.keys() == alone.keys() - {"tune_answerer"}
    assert untuned["select_frames"].jobs == alone["select_frames"].jobs - 2  # none on the training questions


def test_an_answerer_on_a_server_takes_no_memory_here() -> None:
    here, served = paper(), paper(answerer={"backend": "endpoint", "frames_as": "images"})
    assert (
        here["train_selector"].gpu_bytes - served["train_selector"].gpu_bytes >= here["train_selector"].gpu["answerer"]
    )
    for stage in ("filter_guessable", "evaluate", "answer_questions"):
        assert here[stage].gpu and not served[stage].gpu
    for stage in ("select_frames", "tune_answerer"):
        assert here[stage] == served[stage]


def test_the_stage_prints_tables_formulas_and_resources(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, lines in (("videos", 30), ("items", 45)):
        (tmp_path / f"{name}.jsonl").write_text("{}\n" * lines)
    models = {"selector": "Qwen/Qwen2.5-VL-3B-Instruct@v1", "answerer": "Qwen/Qwen2.5-VL-7B-Instruct"}
    sets = {"local_train": str(tmp_path), "needle": [500, 1000], "needle_shifted": str(tmp_path / "nowhere")}
    plan.main(plan.Settings(PAPER, models, sets, "local_train", PROFILE))
    printed = capsys.readouterr().out
    assert "3,085,938,688 weights + 668,684,288" in printed and "not imported yet, so shown as 1,000" in printed
    assert "tune_answerer does not fit 80 GB" in printed and "Keys and values: 2 x layers" in printed
    assert "| answer_questions | on request | 1 |" in printed
    block = yaml.safe_load(printed[printed.index("set-resources:") :])["set-resources"]
    profile = yaml.safe_load(PROFILE.read_text())["set-resources"]
    assert block.keys() == profile.keys() | {"cache_frames"}
    assert all(entry.items() <= block[rule].items() for rule, entry in profile.items())
    minutes, memory = (block["train_selector"][name].removesuffix(" * attempt") for name in ("runtime", "mem_mb"))
    assert int(minutes) > 60 and int(memory) > 15_000
    # those whose time depends on a benchmark of unknown size keep that of their rules
    unplanned = {"cache_frames", "score_frames", "select_frames", "evaluate", "answer_questions", "initialise_selector"}
    assert {rule for rule, entry in block.items() if "runtime" not in entry} == unplanned
    write_json(tmp_path / "config.json", {"model_type": "qwen3_vl"})
    with pytest.raises(ValueError, match=r"sizes of answerer.model = .* are not known; known are .*3B, 7B"):
        plan.main(plan.Settings(PAPER, {**models, "answerer": str(tmp_path)}, sets, "local_train", PROFILE))


def test_a_limit_of_the_users_own_stays_and_an_earlier_plan_does_not(tmp_path: Path) -> None:
    entries = {"evaluate": {"gres": "gpu:1", "runtime": 600}, "train_selector": {"runtime": "7 * attempt"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"set-resources": entries}))
    estimates = [Estimate("evaluate", 1, seconds=60), Estimate("train_selector", 1, counted=False)]
    replaced = yaml.safe_load("\n".join(plan.resources(estimates, tmp_path / "config.yaml")))["set-resources"]
    assert replaced == {
        "evaluate": {"gres": "gpu:1", "runtime": 600, "mem_mb": "3000 * attempt"},
        "train_selector": {"mem_mb": "3000 * attempt"},
    }
    alone = yaml.safe_load("\n".join(plan.resources(estimates, tmp_path / "none.yaml")))["set-resources"]
    assert alone["evaluate"] == {"mem_mb": "3000 * attempt", "runtime": "10 * attempt"}


def test_sizes_are_counted_published_or_unknown(tmp_path: Path) -> None:
    for name, lines in (("videos", 30), ("items", 45)):
        (tmp_path / f"{name}.jsonl").write_text("{}\n" * lines)
    sets = {"mlvu": str(tmp_path), "needle": [500, 1000], "videomme": str(tmp_path / "a"), "local": str(tmp_path / "b")}
    known = sizes(sets, PAPER["hub"])
    assert known.of["mlvu"] == (30, 45) and known.of["needle"] == (500, 1000) and known.of["videomme"] == (900, 2700)
    assert known.published == ("videomme",) and known.unknown == ("local",)
    assert published_size("viarl_data_train", PAPER["hub"]) == (7840, 7840)
    assert published_size("viarl_data_validation", PAPER["hub"] | {"viarl_data_parts": None}) == (480, 480)
    assert published_size("videomme_subtitles", PAPER["hub"] | {"limit": 200}) == (200, 600)
    assert published_size("lvbench", PAPER["hub"] | {"limit": 200}) == (103, 1549)


def test_answers_on_own_videos_count_in_the_time_of_what_they_ask_for() -> None:
    def planned(sizes: Sizes) -> dict[str, Estimate]:
        return {one.stage: one for one in Plan(PAPER, *shapes, sizes, "local_train").estimates()}

    shapes = PUBLISHED["3B"], PUBLISHED["7B"]
    without = planned(SETS)
    own = planned(Sizes({**SETS.of, "local": (90_000, 90_000)}))
    assert own["answer_questions"].seconds == pytest.approx(90 * without["answer_questions"].seconds)
    assert own["cache_frames"].seconds > 10 * without["cache_frames"].seconds
    assert own["cache_frames"].disk == without["cache_frames"].disk  # nothing of it unless asked for
    assert own["evaluate"] == without["evaluate"]
    unknown = planned(Sizes({**SETS.of, "local": (1000, 1000)}, unknown=("local",)))
    assert {stage for stage, one in unknown.items() if not one.counted} == {
        "cache_frames", "score_frames", "select_frames", "answer_questions"
    }  # fmt: skip


def test_the_card_is_checked() -> None:
    with pytest.raises(ValueError, match=r"plan.utilisation = 35: out of range"):
        check(overlaid(DEFAULT, {"plan": {"utilisation": 35}}))
