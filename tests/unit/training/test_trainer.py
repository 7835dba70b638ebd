"""Real few-step trainings of a tiny random selector: what is logged, exact resume, LoRA, microbatches."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from trl import GRPOTrainer

from small_answerer import save_vlm
from small_qwen3 import qwen3
from small_selector import CONFIG, ITEMS, TEXTS, TRAINING, WEIGHTS, RandomPrompts, adapters, save_start
from viarl.answer.answerer import Reply
from viarl.config.check import check
from viarl.models.save import save_model
from viarl.models.vlm import Vlm
from viarl.report.curves import panels
from viarl.tracking.monitor import Monitor
from viarl.tracking.record import Tracking, read_record
from viarl.tracking.start import start_run
from viarl.training.rl import attention
from viarl.training.rl.data import training_rows
from viarl.training.rl.hooks import check_trl
from viarl.training.rl.reward import PARTS
from viarl.training.rl.settings import SelectorTask
from viarl.training.rl.trainer import SelectorTrainer

TASK = SelectorTask(TRAINING, selected=2, max_new_tokens=20, length_range=(2, 15), reward=WEIGHTS, seed=3)


class Oracle:
    """Answers A whenever an even number of frames was asked for."""

    def answer(self, requests):
        return [Reply("", "A" if sum(request.frames) % 2 == 0 else "B") for request in requests]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A folder with a model that writes some valid lists."""
    return save_start(tmp_path_factory.mktemp("start"))


def make(start, folder, task=TASK, callbacks=(), pixels=False):
    vlm = Vlm.load(start, device="cpu")
    source = RandomPrompts(vlm, pixels)
    return SelectorTrainer(vlm, ITEMS, source, Oracle(), task, folder, callbacks, lambda item, frames: 0.5)


def weights(trainer):
    return {name: weight.clone() for name, weight in trainer.model.state_dict().items()}


def steps(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def test_training_runs_and_logs_every_part(start, tmp_path):
    trainer = make(start, tmp_path)
    before = weights(trainer)
    trainer.train()
    after, log = weights(trainer), steps(trainer)
    assert len(log) == 3
    names = {*(f"reward/{part}" for part in PARTS), "reward/total", "valid_rate", "kl"}
    names |= {"entropy", "clip_fraction", "completion_tokens", "answer_accuracy", "evidence_recall", "learning_rate"}
    names |= {"grad_norm", "seconds/rollout", "seconds/reward", "seconds/reference", "seconds/update"}
    assert names <= set(log[0])
    assert log[0]["kl"] == pytest.approx(0, abs=1e-5)  # the policy is still the reference
    assert abs(log[2]["kl"]) > 1e-3
    assert log[0]["evidence_recall"] == 0.5
    parts = sum(log[0][f"reward/{part}"] for part in PARTS)
    assert log[0]["reward/total"] == pytest.approx(parts)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and not any("visual" in name for name in changed)


def test_a_part_is_a_function_and_a_weight(start, tmp_path, monkeypatch):
    """It is rewarded, logged, recorded for MLflow, drawn, and one of the settings that a training depends on."""
    weights = WEIGHTS | {"doubt": 0.5}
    with pytest.raises(ValueError, match=r"reward\.doubt = 0\.5: unknown key; known are .*"):
        check(CONFIG | {"reward": weights})
    monkeypatch.setitem(PARTS, "doubt", lambda outcome, task: 1.0 if outcome.reply.letter == "B" else 0.25)
    check(CONFIG | {"reward": weights})
    task = replace(TASK, reward=weights)
    about = {"stage": "train_selector", "cycle": 1, "defer_below_s": 1e9}
    tracking = Tracking(record=tmp_path / "record.jsonl", root=tmp_path, **about)
    with start_run(tracking, {"reward": task.reward}) as run:
        trainer = make(start, tmp_path, task, [Monitor("steps", run, ())])
        trainer.train()
    log, record = steps(trainer), read_record(tmp_path / "record.jsonl")
    assert all(entry["reward/doubt"] == pytest.approx(0.5 - 0.375 * entry["answer_accuracy"]) for entry in log)
    assert log[0]["reward/total"] == pytest.approx(sum(log[0][f"reward/{part}"] for part in PARTS))
    assert [value for _, value in record.series("reward/doubt")] == [entry["reward/doubt"] for entry in log]
    assert ("reward/doubt", "doubt part", "reward, mean") in panels([record])
    assert record.params["reward.doubt"] == 0.5


def test_one_process_with_several_gpus_takes_one(start, tmp_path, monkeypatch):
    trainer = make(start, tmp_path)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    model = SimpleNamespace(device=torch.device("cuda"))
    assert trainer._arguments(tmp_path, model).n_gpu <= 1


def test_resume_is_exact(start, tmp_path):
    task = replace(TASK, training=replace(TRAINING, steps=4, save_every=2))
    whole = make(start, tmp_path / "whole", task)
    whole.train()
    again = make(start, tmp_path / "again", task)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    expected, got = weights(whole), weights(again)
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    timeless = [{k: v for k, v in entry.items() if "seconds" not in k and "time" not in k} for entry in steps(whole)]
    assert json.dumps(timeless[2:]) == json.dumps(
        [{k: v for k, v in entry.items() if "seconds" not in k and "time" not in k} for entry in steps(again)[2:]]
    )


def test_microbatches_change_nothing(start, tmp_path):
    """Groups in one, two or four microbatches: the same rollouts, loss gradients and, up to rounding, weights."""
    results = []
    for size in (0, 2, 1):
        training = replace(TRAINING, steps=2, warmup_steps=0, groups_per_microbatch=size, groups_per_rollout=size)
        trainer = make(start, tmp_path / str(size), replace(TASK, training=training))
        trainer.train()
        results.append(steps(trainer))
    for name in ("grad_norm", "kl", "entropy", "reward/total", "completion_tokens"):
        for other in results[1:]:
            assert [entry[name] for entry in other] == pytest.approx([entry[name] for entry in results[0]], rel=2e-3)


def test_several_updates_of_one_rollout(start, tmp_path):
    """The second update reuses the completions: only then does the ratio leave 1 and the clip act."""
    training = replace(TRAINING, steps=4, updates_per_rollout=2, learning_rate=2e-2, warmup_steps=0)
    trainer = make(start, tmp_path, replace(TASK, training=training))
    trainer.train()
    log = steps(trainer)
    assert ["reward/total" in entry for entry in log] == [True, False, True, False]
    assert log[0]["clip_fraction"] == log[2]["clip_fraction"] == 0
    assert log[1]["clip_fraction"] > 0


def test_adapters_learn_while_the_model_stays(start, tmp_path):
    task = replace(TASK, training=replace(TRAINING, steps=4, save_every=2), lora=adapters())
    trainer = make(start, tmp_path / "whole", task)
    before = weights(trainer)
    trainer.train()
    after, log = weights(trainer), steps(trainer)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed and all("lora_" in name and "language_model" in name for name in changed)
    assert log[0]["kl"] == pytest.approx(0, abs=1e-6)  # adapters switched off are the reference
    assert abs(log[3]["kl"]) > 1e-4
    again = make(start, tmp_path / "again", task)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert all(torch.equal(after[name], weight) for name, weight in weights(again).items())
    save_model(trainer.model, trainer.processing_class, tmp_path / "merged")
    merged, whole = (Vlm.load(folder, device="cpu").model.state_dict() for folder in (tmp_path / "merged", start))
    assert merged.keys() == whole.keys()


def test_the_vision_tower_trains_when_asked(start, tmp_path):
    training = replace(TRAINING, steps=2, warmup_steps=0, train_vision=True)
    trainer = make(start, tmp_path, replace(TASK, training=training), pixels=True)
    before = weights(trainer)
    trainer.train()
    assert any("visual" in name and not torch.equal(before[name], weight) for name, weight in weights(trainer).items())
    with pytest.raises(ValueError, match="pixels"):
        make(start, tmp_path, replace(TASK, training=training)).train()


@pytest.mark.parametrize("variant", ["frozen tower", "trained tower", "adapters"])
def test_gradient_checkpointing_changes_nothing(start, tmp_path, variant):
    """Also the tower's gradients, and those of adapters, through the shared prefix; up to rounding."""
    vision = variant == "trained tower"
    results = []
    for checkpointing in (False, True):
        training = replace(TRAINING, steps=2, warmup_steps=0, train_vision=vision, gradient_checkpointing=checkpointing)
        task = replace(TASK, training=training, lora=adapters(variant == "adapters"))
        trainer = make(start, tmp_path / str(checkpointing), task, pixels=vision)
        layers = [module for name, module in trainer.model.named_modules() if name.endswith(("layers.0", "blocks.0"))]
        trainer.train()
        assert [layer.gradient_checkpointing for layer in layers] == [checkpointing] * 2
        results.append((steps(trainer), weights(trainer)))
    (plain, expected), (checkpointed, got) = results
    for name in ("loss", "grad_norm", "kl", "entropy", "reward/total"):
        other = [entry[name] for entry in checkpointed]
        assert [entry[name] for entry in plain] == pytest.approx(other, rel=2e-3, abs=1e-4), name
    first = weights(make(start, tmp_path, task))
    moved = {name for name, weight in first.items() if not torch.equal(weight, got[name])}
    assert any("visual" in name for name in moved) == vision
    assert plain[0]["grad_norm"] > 0 and expected.keys() == got.keys()


@pytest.mark.parametrize("lora", [False, True])
def test_bfloat16_trains_and_is_saved(start, tmp_path, lora):
    """Full training computes in it and keeps its weights in float32; adapters have weights in it."""
    task = replace(TASK, dtype="bfloat16", lora=adapters(lora), training=replace(TRAINING, learning_rate=1e-5))
    vlm = Vlm.load(start, task.lora.weights_dtype("bfloat16"), device="cpu")
    trainer = SelectorTrainer(vlm, ITEMS, RandomPrompts(vlm), Oracle(), task, tmp_path / "work")
    before = weights(trainer)
    trainer.train()
    changed = [name for name, weight in weights(trainer).items() if not torch.equal(before[name], weight)]
    assert changed and all(("lora_" in name) == lora for name in changed)
    dtypes = {weight.dtype for name, weight in before.items() if "lora_" not in name}
    assert dtypes == {torch.bfloat16 if lora else torch.float32}
    assert len(steps(trainer)) == 3 and all(entry["grad_norm"] > 0 for entry in steps(trainer))
    save_model(trainer.model, vlm.processor, tmp_path / "saved", "bfloat16")
    assert Vlm.load(tmp_path / "saved", "bfloat16", device="cpu").model.dtype == torch.bfloat16


def test_adapters_of_the_vision_tower_train_too(start, tmp_path):
    training = replace(TRAINING, steps=1, warmup_steps=0, train_vision=True)
    trainer = make(start, tmp_path, replace(TASK, training=training, lora=adapters()), pixels=True)
    before = weights(trainer)
    trainer.train()
    changed = {name for name, weight in weights(trainer).items() if not torch.equal(before[name], weight)}
    assert all("lora_" in name for name in changed) and any("visual" in name for name in changed)
    assert any("language_model" in name for name in changed)


def test_qwen3_vl_trains(tmp_path):
    """The other family: timed prompts, DeepStack features, adapters and the tower."""
    save_vlm(qwen3(TEXTS), tmp_path / "start")
    for vision, lora in ((False, False), (True, False), (True, True)):
        training = replace(TRAINING, steps=1, warmup_steps=0, train_vision=vision, gradient_checkpointing=True)
        # untrained, its completions differ in nothing but whether they end
        task = replace(TASK, training=training, max_new_tokens=80, length_range=(1, 79), lora=adapters(lora))
        trainer = make(tmp_path / "start", tmp_path / f"{vision}{lora}", task, pixels=vision)
        before = weights(trainer)
        trainer.train()
        changed = {name for name, weight in weights(trainer).items() if not torch.equal(before[name], weight)}
        assert any("language_model" in name for name in changed)
        assert any("visual" in name for name in changed) == vision


@pytest.mark.parametrize("algorithm", ["reinforce++-baseline", "group-normalised"])
def test_variants_run_without_a_reference(start, tmp_path, algorithm):
    task = replace(TASK, training=replace(TRAINING, algorithm=algorithm, steps=1, beta=0.0))
    trainer = make(start, tmp_path, task)
    trainer.train()
    assert trainer.reference is None and steps(trainer)[0]["kl"] == 0


def test_a_dropped_video_stops_training(start, tmp_path):
    """Features that never reach the language model, or a prompt without video."""
    trainer = make(start, tmp_path)
    forward = trainer.model.model.forward
    blind = {"video": None}
    trainer.model.model.forward = lambda **arguments: forward(**{**arguments, "mm_encoder_outputs": blind})
    with pytest.raises(RuntimeError, match="do not depend on the video"):
        trainer.train()
    trainer = make(start, tmp_path)
    bare = [{"role": "user", "content": [{"type": "text", "text": "Which?"}]}]
    trainer.prompts.prompts = lambda items: [trainer.vlm.prompt(bare) for _ in items]
    with pytest.raises(ValueError, match="no video"):
        trainer.train()


def test_an_attention_that_ignores_the_mask_stops_training(start, tmp_path, monkeypatch):
    """As an attention backend would that sees its own future."""
    right = attention.build_layout

    def wrong(*arguments):
        layout = right(*arguments)
        return replace(layout, completion_mask=torch.ones_like(layout.completion_mask))

    monkeypatch.setattr(attention, "build_layout", wrong)
    with pytest.raises(RuntimeError, match="differs from the plain one"):
        make(start, tmp_path).train()


def test_another_trl_is_refused(monkeypatch):
    check_trl()
    monkeypatch.setattr(GRPOTrainer, "_compute_loss", lambda self, model, inputs, extra: None)
    with pytest.raises(RuntimeError, match=r"_compute_loss.*requirements.lock"):
        check_trl()


def test_settings_that_do_not_fit_are_refused(start, tmp_path):
    with pytest.raises(ValueError, match="3 groups_per_microbatch"):
        make(start, tmp_path, replace(TASK, training=replace(TRAINING, groups_per_microbatch=3)))
    for wrong in ({"algorithm": "ppo"}, {"group_size": 1}, {"schedule": "linear"}, {"gamma": 1.5}, {"steps": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            replace(TRAINING, **wrong)


def test_training_order_passes_over_all_items():
    order = list(training_rows(ITEMS[:5], 12, 1)["item"])
    assert sorted(order[:5]) == sorted(order[5:10]) == list(range(5)) and len(order) == 12
    assert order != list(training_rows(ITEMS[:5], 12, 2)["item"])
