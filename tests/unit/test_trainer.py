"""Real few-step trainings of a tiny random selector: what is logged, exact resume, LoRA, microbatches."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from viarl.answer.answerer import Reply
from viarl.items import Item
from viarl.prompts import selector_messages
from viarl.rl.config import Lora, SelectorTask, Training
from viarl.rl.prefix import Group, shared_log_probs
from viarl.rl.trainer import SelectorTrainer, check_trl, training_order
from viarl.stand_ins.architecture import Size, build_model, build_processor, build_tokenizer
from viarl.vlm import Encoder, with_features

REPLY = "<think>blue</think><index>[{}, {}]</index><|im_end|>"
TEXTS = [REPLY.format(n, n + 1) for n in range(6)] * 3 + ['The question is "Which?"', "system user"] * 3
TRAINING = Training(
    algorithm="reinforce++",
    steps=3,
    prompts_per_step=4,
    group_size=3,
    learning_rate=1e-2,
    warmup_steps=1,
    temperature=1.0,
)
TASK = SelectorTask(TRAINING, selected=2, max_new_tokens=20, length_range=(2, 15), seed=3)


class RandomPrompts:
    """Prompts on random frames, features by the model's own tower."""

    def __init__(self, model, processor, pixels=False):
        self.model, self.encoder, self.pixels = model, Encoder(model, processor), pixels

    def count(self, item):
        return 6

    def prompts(self, items):
        prompts = []
        for item in items:
            frames = np.random.default_rng(int(item.id)).integers(0, 255, (6, 28, 28, 3), dtype=np.uint8)
            pixels, grid = self.encoder.pixels(frames)
            prompts.append(self.encoder.prompt(selector_messages("short", item.question, 6, 2), pixels, grid))
        return prompts if self.pixels else with_features(self.model, prompts)


class Oracle:
    """Answers A whenever an even number of frames was asked for."""

    def answer(self, requests):
        return [Reply("", "A" if sum(request.frames) % 2 == 0 else "B") for request in requests]


ITEMS = [Item(str(n), f"v{n}", f"Which of {n}?", ("x", "y"), "A", evidence=((0.0, 1.0),)) for n in range(7)]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A folder with an untrained model and its processor."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(TEXTS, 10)
    processor = build_processor(tokenizer)
    model = build_model(tokenizer, Size(hidden=32, layers=2, mlp=64, vision_hidden=32))
    # a few supervised steps, so that some completions earn something and others do not
    prompts = RandomPrompts(model, processor).prompts(ITEMS[:4])
    replies = [torch.tensor(tokenizer(REPLY.format(n % 6, n // 2))["input_ids"]) for n in range(12)]
    groups = [Group(prompt, tuple(replies[3 * n : 3 * n + 3])) for n, prompt in enumerate(prompts)]
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(25):
        optimiser.zero_grad()
        (-shared_log_probs(model, groups, pad=0).log_probs.sum() / 100).backward()
        optimiser.step()
    folder = tmp_path_factory.mktemp("start")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def make(start, folder, task=TASK, callbacks=(), pixels=False):
    from viarl.vlm import load_model, load_processor

    model, processor = load_model(start, device="cpu"), load_processor(start)
    source = RandomPrompts(model, processor, pixels)
    return SelectorTrainer(model, processor, ITEMS, source, Oracle(), task, folder, callbacks, lambda item, frames: 0.5)


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
    names = {"reward/format", "reward/index", "reward/answer", "reward/length", "reward/total", "valid_rate", "kl"}
    names |= {"entropy", "clip_fraction", "completion_tokens", "answer_accuracy", "evidence_recall", "learning_rate"}
    names |= {"grad_norm", "seconds/rollout", "seconds/reward", "seconds/reference", "seconds/update"}
    assert names <= set(log[0])
    assert log[0]["kl"] == pytest.approx(0, abs=1e-5)  # the policy is still the reference
    assert abs(log[2]["kl"]) > 1e-3
    assert log[0]["evidence_recall"] == 0.5
    parts = sum(log[0][f"reward/{part}"] for part in ("format", "index", "answer", "length"))
    assert log[0]["reward/total"] == pytest.approx(parts)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and not any("visual" in name for name in changed)


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
