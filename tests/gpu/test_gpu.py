"""What only a GPU can show: attentions in bfloat16, and steps of a 3B model against the plan (80 GB of its memory).

python -m pytest -m gpu -s tests/gpu
"""

import importlib.util
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from small_answerer import save_vlm
from tests.gpu import steps
from viarl.config.runs import overlaid
from viarl.models.vlm import Vlm
from viarl.plan.estimates import TEXT_TOKENS, Plan
from viarl.plan.shapes import PUBLISHED
from viarl.plan.sizes import Sizes
from viarl.selection.prompt import selector_messages
from viarl.training.rl import attention
from viarl.training.rl.prefix import Group, plain_log_probs, shared_log_probs

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = replace(PUBLISHED["3B"], hidden=512, layers=4, heads=8, mlp=1024, vocabulary=512, vision_layers=4)
FLASH = pytest.param(
    "flash_attention_2",
    marks=pytest.mark.skipif(importlib.util.find_spec("flash_attn") is None, reason="flash_attn is not installed"),
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    return save_vlm(steps.build(SMALL, "cuda", torch.float32), folder)


def groups_of(vlm: Vlm) -> list[Group]:
    """Two groups of different lengths, features by the model's own tower."""
    rng, prompts = np.random.default_rng(0), []
    for frames, question in ((6, "Which?"), (10, "Which shape is it, then, on the card?")):
        pixels, grid = vlm.pixels(rng.integers(0, 255, (frames, 56, 84, 3), dtype=np.uint8))
        prompts.append(vlm.prompt(selector_messages("short", question, frames, 2), pixels, grid))
    completions = [
        tuple(torch.from_numpy(rng.integers(0, 250, n)) for n in lengths) for lengths in ((9, 30), (4, 17, 1))
    ]
    return [Group(prompt, own) for prompt, own in zip(vlm.with_features(prompts), completions, strict=True)]


@pytest.mark.parametrize("kind", ["sdpa", "eager", FLASH])
@torch.no_grad()
def test_attentions_in_bfloat16_agree_with_float32(saved: Path, kind: str) -> None:
    """An attention may add no more than the type itself does."""
    exact, vlm = Vlm.load(saved, "float32", "eager", "cuda"), Vlm.load(saved, "bfloat16", kind, "cuda")
    expected = plain_log_probs(exact.model, groups_of(exact), pad=0).log_probs
    model, groups = vlm.model, groups_of(vlm)
    got = plain_log_probs(model, groups, pad=0).log_probs
    attention.enable(model)
    shared = shared_log_probs(model, groups, pad=0).log_probs
    errors = {"plain": float((got - expected).abs().max()), "shared": float((shared - expected).abs().max())}
    print(json.dumps({"attention": kind, **errors}))
    assert max(errors.values()) < 0.1
    replies = vlm.complete([group.prompt for group in groups], max_new_tokens=8)
    assert all(1 <= len(reply) <= 8 for reply in replies)


def test_auto_takes_flash_attention_where_it_is_installed(saved: Path) -> None:
    installed = importlib.util.find_spec("flash_attn") is not None
    for dtype, expected in (("bfloat16", installed), ("float32", False)):
        kind = Vlm.load(saved, dtype, "auto", "cuda").model.config._attn_implementation
        assert kind == ("flash_attention_2" if expected else "sdpa")


@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.parametrize("stage", ["train_selector", "tune_answerer"])
def test_steps_of_3b_need_what_is_planned(stage: str, lora: bool, tmp_path: Path) -> None:
    """At the paper's frames; 128 new tokens, lest the test be long."""
    shape, form = PUBLISHED["3B"], (896, 503) if stage == "tune_answerer" else (112, 62)
    if stage == "train_selector":
        measured = steps.train_selector(shape, "cuda", tmp_path, lora=lora, frames=128, form=form, new=128)
    else:
        measured = steps.tune_answerer(shape, "cuda", tmp_path, lora=lora, frames=8, form=form)
    config = overlaid(
        yaml.safe_load((REPOSITORY / "config.yaml").read_text()),
        yaml.safe_load((REPOSITORY / "presets" / "paper.yaml").read_text()),
    )
    overlay = {
        "dataset": "local",
        "selector": {
            "max_new_tokens": 128,
            "lora": {"enabled": lora},
            "training": {"prompts_per_step": 2, "groups_per_rollout": 2},
        },
        "answerer": {"batch_size": 1, "lora": {"enabled": lora}, "tuning": {"batch_size": 2}},
    }
    sizes = Sizes({"local_train": (1, 1), "needle": (1, 1)})
    plan = Plan(overlaid(config, overlay), shape, shape, sizes, "local_train")
    assert TEXT_TOKENS["paper"] < plan.prompt
    planned = sum(size for part, size in getattr(plan, stage)().gpu.items() if part != "answerer") / 1e9
    print(json.dumps({"stage": stage, "lora": lora, **measured, "planned_gb": planned}))
    assert math.isfinite(measured["loss"])
    assert measured["peak_gb"] / 1.6 < planned < 1.6 * measured["peak_gb"]
