"""Tuning of the answerer: real steps on a tiny model, resumed bit by bit after a signal."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPooling

from small_answerer import MemoryCache, item, save_vlm, small_answerer, small_vlm
from small_selector import adapters
from small_stage import SignalAt, recorded, run_stage
from viarl.answer.answerer import Answerer, Request, _with_features
from viarl.items import write_records
from viarl.models.encode import Prompt, forward_arguments
from viarl.models.vlm import Vlm
from viarl.selection.picks import GREEDY, SAMPLED, Pick, write_picks
from viarl.stages import tune_answerer
from viarl.stages.tune_answerer import Settings
from viarl.tracking.record import read_record
from viarl.training.libraries import schedule
from viarl.training.sft.dataset import IGNORED, AnswererPrompts, Collator, Example, restated, target_text
from viarl.training.sft.settings import TunedAnswerer, Tuning
from viarl.training.sft.trainer import SupervisedTrainer

COUNTS = {"v0": 8, "v1": 5}
TUNING = Tuning(steps=6, batch_size=4, learning_rate=3e-3, warmup_steps=1, weight_decay=0.01, save_every=4)
ITEMS = [item(number, f"v{number % 2}", "ABCD"[number % 4]) for number in range(7)]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    save_vlm(small_vlm(), tmp_path / "base")
    monkeypatch.setattr(tune_answerer, "FrameCache", lambda manifests: MemoryCache(COUNTS))
    write_records(tmp_path / "items.jsonl", [*ITEMS, item(8, "v9"), item(9, "v0", "")])
    picks = [Pick(own.id, own.video, GREEDY, "", True, "", (0, 2, 3), 5) for own in ITEMS]
    picks += [replace(pick, decode=SAMPLED, indices=(1,)) for pick in picks]
    picks += [Pick("q8", "v9", GREEDY, "", False, "", (), 0, "video v9: broken")]
    picks += [Pick("q9", "v0", GREEDY, "", True, "", (1, 2, 3), 5)]
    write_picks(tmp_path / "picks.parquet", picks)
    own = {"selected": tmp_path / "picks.parquet", "answerer_model": tmp_path / "base"}
    answerer = TunedAnswerer(prompt="short", max_new_tokens=4, tuning=TUNING)
    return recorded(Settings, tmp_path, "cycle1/answerer", answerer=answerer, **own)


def tuned(settings: Settings, **changes: Any) -> Settings:
    return replace(settings, answerer=replace(settings.answerer, tuning=replace(TUNING, **changes)))


def run(settings: Settings, name: str) -> dict[str, torch.Tensor]:
    return run_stage(tune_answerer, settings, name)


def difference(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor], part: str = "") -> float:
    assert left.keys() == right.keys()
    return max(float((left[name] - right[name]).abs().max()) for name in left if part in name)


def losses(settings: Settings) -> list[float]:
    assert settings.tracking.record is not None
    return [value for _, value in read_record(settings.tracking.record).series("tuning/loss")]


def test_the_loss_falls_and_the_frozen_tower_stays(settings: Settings) -> None:
    weights = run(tuned(settings, steps=25, batch_size=8, learning_rate=1e-2), "a")
    curve = losses(settings)
    assert len(curve) == 25 and curve[-1] < 0.7 * curve[0]
    base = load_file(settings.answerer_model / "model.safetensors")
    assert difference(base, weights, "visual") == 0 < difference(base, weights, "layers")
    assert settings.tracking.record is not None
    record = read_record(settings.tracking.record)
    assert record.series("tuned_on") == [(0, 7.0)] and record.status == "FINISHED"


@pytest.mark.parametrize("variant", ["full", "lora", "vision"])
def test_a_stopped_tuning_goes_on_bit_by_bit(
    settings: Settings, variant: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tuned(settings, train_vision=variant == "vision")
    if variant == "lora":
        settings = replace(settings, answerer=replace(settings.answerer, lora=adapters()))
    straight = run(settings, "straight")
    base = load_file(settings.answerer_model / "model.safetensors")
    assert (difference(base, straight, "visual") > 0) == (variant == "vision")
    whole = losses(settings)

    class Signalled(SupervisedTrainer):
        def train(self, **options: Any) -> Any:
            self.add_callback(SignalAt(2))
            return super().train(**options)

    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="143"):
        patch.setattr(tune_answerer, "SupervisedTrainer", Signalled)
        run(settings, "stopped")
    assert re.search(r"SIGTERM(.|\n)*by a signal at step 3 of 6.*the same command again", capsys.readouterr().err)
    folder = settings.output.parents[2] / "stopped"
    assert not (folder / "answerer").exists()
    assert [path.name for path in (folder / "checkpoints" / "answerer").glob("checkpoint-*")] == ["checkpoint-3"]

    with pytest.raises(ValueError, match=r"tuning\.learning_rate: 0\.003 -> 0\.1\).*delete that folder"):
        run(tuned(settings, learning_rate=0.1, train_vision=variant == "vision"), "stopped")
    assert difference(run(settings, "stopped"), straight) == 0
    assert losses(settings) == whole


def test_one_process_with_several_gpus_takes_one(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL refuses what transformers does with several; here they are a mere number."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(tune_answerer, "resolve_device", lambda device: torch.device("cuda"))
    run(tuned(settings, steps=1, warmup_steps=0), "a")


def test_micro_batches_give_the_same_weights(settings: Settings) -> None:
    whole, split = run(settings, "a"), run(tuned(settings, micro_batch_size=2, gradient_checkpointing=True), "b")
    assert difference(whole, split) < 1e-4
    with pytest.raises(ValueError, match="no multiple of 1 processes x micro_batch_size 3"):
        run(tuned(settings, micro_batch_size=3), "c")


@pytest.mark.parametrize("vision", [False, True])
@pytest.mark.parametrize("lora", [False, True])
def test_gradient_checkpointing_and_bfloat16(settings: Settings, vision: bool, lora: bool) -> None:
    """Recomputing activations changes nothing; bfloat16 computes in it, and saves in it."""
    own = replace(settings, answerer=replace(settings.answerer, lora=adapters(lora)))
    plain = run(tuned(own, train_vision=vision), "a")
    again = run(tuned(own, train_vision=vision, gradient_checkpointing=True), "b")
    assert difference(plain, again) < 1e-4
    exact = losses(own)
    half = replace(own, answerer=replace(own.answerer, dtype="bfloat16"))
    saved = run(tuned(half, train_vision=vision, gradient_checkpointing=True), "c")
    assert {weight.dtype for weight in saved.values()} == {torch.bfloat16}
    assert losses(half) == pytest.approx(exact, rel=0.05)
    assert own.tracking.record is not None
    merged = [value for _, value in read_record(own.tracking.record).series("merge/lost")]
    assert len(merged) == lora and all(0 < lost < 0.5 for lost in merged)
    base = load_file(settings.answerer_model / "model.safetensors")
    kept = {name: weight.to(torch.bfloat16) for name, weight in base.items()}
    assert (difference(kept, saved, "visual") > 0) == vision


def test_a_vision_tower_without_steps_gives_the_frozen_loss(settings: Settings) -> None:
    frozen = losses(tuned(settings, steps=1)) if run(tuned(settings, steps=1), "a") else []
    tuned_too = tuned(settings, steps=1, train_vision=True)
    run(tuned_too, "b")
    assert losses(tuned_too) == pytest.approx(frozen, abs=1e-5)
    as_images = replace(settings, answerer=replace(settings.answerer, frames_as="images"))
    images = losses(tuned(as_images, steps=1)) if run(tuned(as_images, steps=1), "c") else []
    run(tuned(as_images, steps=1, train_vision=True), "d")
    assert losses(tuned(as_images, steps=1)) == pytest.approx(images, abs=1e-5) != frozen


@pytest.mark.parametrize("frames_as", ["video", "images"])
def test_labels_get_the_probabilities_that_generation_gives_them(frames_as: str) -> None:
    """Token by token after a shared prefill, as `generate` decodes; other positions would give other numbers."""
    vlm, cache = small_vlm(), MemoryCache(COUNTS)
    model = vlm.model
    examples = [Example(own, (0, 2, 3), f"{own.options[number % 4]} B") for number, own in enumerate(ITEMS)]
    prompts = AnswererPrompts(vlm, cache, "short", frozen=True, frames_as=frames_as)
    collator = Collator(vlm.tokenizer, examples, prompts)
    batch = collator([{"row": row} for row in range(len(examples))])
    kind = frames_as.removesuffix("s")
    features = BaseModelOutputWithPooling(pooler_output=batch.pop(f"{kind}_features"))
    labels = batch.pop("labels")
    with torch.no_grad():
        logits = model(**batch, mm_encoder_outputs={kind: features}).logits.log_softmax(-1)
        for row, example in enumerate(examples):
            prompt = answerer_prompt(cache, example, frames_as)
            target = labels[row][labels[row] != IGNORED]
            assert vlm.tokenizer.decode(target) == f"{example.target}<|im_end|>"
            held = DynamicCache(config=model.config.get_text_config())
            step = model(**forward_arguments([prompt], model.device, 0), past_key_values=held, use_cache=True)
            for place, token in enumerate(target):
                expected = step.logits[0, -1].log_softmax(-1)
                assert torch.allclose(logits[row, prompt.length + place - 1], expected, atol=1e-4)
                position = torch.full((3, 1, 1), prompt.next_position + place)
                step = model(token[None, None], position_ids=position, past_key_values=held, use_cache=True)


def answerer_prompt(cache: MemoryCache, example: Example, frames_as: str) -> Prompt:
    """The prompt of an answerer that is asked, with features."""
    answerer = small_answerer(cache, frames_as=frames_as)
    request = Request(example.item, example.frames)
    patches = [answerer._patches([group])[group] for group in answerer._groups(request)]
    return _with_features(answerer._prompt(request, patches, {}), patches)


def test_targets_follow_from_the_item_and_its_own_words() -> None:
    asked = "Which shape is on the green card before the red card?"
    own = replace(ITEMS[2], question=asked, options=("star", "red moon"), answer="B")
    assert target_text("letter", own) == "B" and target_text("text_letter", own) == "red moon B"
    for reply, prefix in {
        "green star A": ["green"],
        "green none A": ["green"],
        "The Green card star": ["The", "Green", "card"],
        "red green A": [],  # the first word is part of an option
        "": [],
        "?! green": [],
    }.items():
        assert restated(own, reply) == prefix
        assert target_text("restated_text_letter", own, reply) == " ".join([*prefix, "red moon B"])
    with pytest.raises(ValueError, match="unknown; choose one of"):
        target_text("words", own)


def test_every_example_comes_once_a_pass() -> None:
    order = schedule(5, 12, seed=1)
    assert len(order) == 12 and sorted(order[:5]) == sorted(order[5:10]) == list(range(5))
    assert order == schedule(5, 12, 1) != schedule(5, 12, 2)
    assert schedule(5, 24, 1)[:12] == order


def test_a_saved_answerer_loads_and_replies(settings: Settings) -> None:
    run(replace(settings, answerer=replace(settings.answerer, lora=adapters(), dtype="bfloat16")), "a")
    vlm = Vlm.load(settings.output.parents[2] / "a" / "answerer", device="cpu")
    saved = load_file(settings.output.parents[2] / "a" / "answerer" / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}
    replies = Answerer(vlm, MemoryCache(COUNTS), "short", 4, 8)
    assert replies.answer([Request(ITEMS[0], (0, 1))])[0].text


def test_unusable_settings_and_inputs_say_what_to_do(settings: Settings) -> None:
    with pytest.raises(ValueError, match="schedule\n  Input should be 'constant' or 'cosine'"):
        Tuning(steps=1, batch_size=1, learning_rate=1e-3, schedule="linear")
    with pytest.raises(ValueError, match="target\n  Input should be 'letter', 'text_letter' or"):
        Tuning(steps=1, batch_size=1, learning_rate=1e-3, target="number")
    write_picks(settings.selected, [])
    with pytest.raises(ValueError, match=r"lacks 9 items, such as .*run select_frames again"):
        tune_answerer.main(settings)
    write_records(settings.items, [item(8, "v9")])
    write_picks(settings.selected, [Pick("q8", "v9", GREEDY, "", False, "", (), 0, "video v9: broken")])
    with pytest.raises(ValueError, match="none of the 1 training questions"):
        tune_answerer.main(settings)
