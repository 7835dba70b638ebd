"""Print what each stage will need: GPU memory, time, disk, the formulas behind them, and what to ask a cluster for."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from viarl.command import run
from viarl.plan.estimates import GB, Estimate, Plan
from viarl.plan.shapes import PUBLISHED, Shape, shape_of
from viarl.plan.sizes import sizes

FORMULAS = """\
Memory of a training: weights + gradients + AdamW's moments (4 + 4 + 8 bytes a trained weight; LoRA: adapters), the
  copies in bfloat16 (2) and the reference, over the processes that share them (FSDP, ZeRO-3; FSDP's gradients of
  several micro-batches are whole); the answerer; and the fullest of activations and logits | rollout | answers |
  vision pass.
Activations: layers x (tokens x (20 hidden + 2 (3 queries + 2 keys + 4 mlp)) bytes + what the shared prefix keeps);
  tokens = prompt + G x max_new_tokens; with gradient checkpointing layers x tokens x 4 hidden, and one layer's.
  Logits: 4 bytes (8 without shards) a completion token and vocabulary entry.
  Keys and values: 2 x layers x keys x rows x tokens x 2 bytes.
Time: 2 x weights x tokens a forward pass (3 with the backward pass, 4 with checkpointing) + 4 x layers x hidden x pairs
  that attend, over tflops x utilisation; a token of decoding reads weights and cache, over bandwidth x utilisation.
Disk: a cached video = N x (3 bytes a selector pixel + about 0.18 an answerer pixel); vision features = tokens x hidden;
  checkpoints = (kept + 1) x (weights + moments), gone when the training ends; trained models = cycles x weights.
Completions are counted at their longest. In full: viarl/plan/formulas.py."""


@dataclass(frozen=True)
class Settings:
    """The configuration, the models' folders or hub ids by role, and the data sets.

    `sets`: of each data set the folder of its items.jsonl and videos.jsonl, or [videos, questions] where known;
    `profile`: the file of the SLURM profile, whose `set-resources` is printed anew.
    """

    configuration: dict[str, Any]
    models: dict[str, str]
    sets: dict[str, Any]
    training_set: str
    profile: Path


def shapes(models: dict[str, str]) -> dict[str, Shape]:
    """Return the shape of each role's model; ValueError says what to do where it is unknown."""
    found = {}
    for role, model in models.items():
        if (shape := shape_of(model, role)) is None:
            raise ValueError(
                f"plan: the sizes of {role}.model = {model!r} are not known; known are folders with the config.json of "
                f"a Qwen2.5-VL, and Qwen/Qwen2.5-VL-{{{', '.join(PUBLISHED)}}}-Instruct: name one of them for the plan"
            )
        found[role] = shape
    return found


def table(estimates: list[Estimate]) -> Iterator[str]:
    """Yield the lines of the table, and under each stage the parts of its memory."""
    yield "| stage | jobs | GPUs | memory of one, GB | time of the longest job | disk, GB |"
    yield "|---|---|---|---|---|---|"
    for one in estimates:
        gpus = str(one.processes) if one.gpu else "-"
        memory = f"{one.gpu_bytes / GB:.2g}" if one.gpu_bytes < 10 * GB else f"{one.gpu_bytes / GB:.0f}"
        disk = f"{one.disk / GB:.1f}" if one.disk else "-"
        cells = (one.stage, one.jobs or "on request", gpus, memory if one.gpu else "-", duration(one.seconds), disk)
        yield f"| {' | '.join(map(str, cells))} |"
    yield ""
    for one in estimates:
        if one.gpu:
            parts = sorted(one.gpu.items(), key=lambda part: -part[1])
            yield f"{one.stage}: " + " + ".join(f"{name} {size / GB:.3g}" for name, size in parts) + " GB"


def resources(estimates: list[Estimate], profile: Path) -> Iterator[str]:
    """Yield the lines of a `set-resources` that replaces the profile's: its entries in full, without anchors.

    Half as much again as estimated, and at least 10 minutes; growing with each attempt, as in the rules. A time limit
    that stands there as a number is the user's, and stays; without a size that is known the rule's own holds.
    """
    given = yaml.safe_load(profile.read_text(encoding="utf-8")) if profile.is_file() else None
    entries = {rule: dict(entry) for rule, entry in ((given or {}).get("set-resources") or {}).items()}
    for one in estimates:
        entry = entries.setdefault(one.stage, {})
        entry["mem_mb"] = f"{math.ceil(1.5 * one.host / 1e9) * 1000} * attempt"
        if not isinstance(entry.get("runtime"), int):
            entry.pop("runtime", None)
            if one.counted:
                entry["runtime"] = f"{max(10, math.ceil(1.5 * one.seconds / 60))} * attempt"
    yield "set-resources:"
    for rule, entry in entries.items():
        yield f"  {rule}:"
        yield from (f"    {name}: {json.dumps(value)}" for name, value in entry.items())


def duration(seconds: float) -> str:
    """Return seconds as text."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def main(settings: Settings) -> None:
    """Print the plan."""
    known = sizes(settings.sets, settings.configuration["hub"])
    of = shapes(settings.models)
    plan = Plan(settings.configuration, of["selector"], of["answerer"], known, settings.training_set)
    estimates, card = plan.estimates(), plan.gpu
    for role, shape in of.items():
        print(f"{role}: {settings.models[role]}, {shape.text:,} weights + {shape.vision:,} of its vision tower")
    if plan.served:
        print("the answerer is on a server, whose GPUs are not counted; the times hold for one GPU like the others")
    print(f"prompts: {plan.prompt} tokens of the selector, {plan.question} of the answerer")
    speeds = f"{card.tflops} TFLOP/s, {card.bandwidth_gb_s} GB/s, {card.utilisation:.0%} of both"
    print(f"GPU: {card.memory_gb} GB, {speeds}")
    if known.published:
        print(f"not fetched yet, so of the published size, or of hub.limit: {', '.join(known.published)}")
    if known.unknown:
        shown = f"not imported yet, so shown as 1,000 videos with a question each: {', '.join(known.unknown)}"
        print(f"{shown}; jobs whose time depends on them keep that of their rules")
    print("\n" + "\n".join(table(estimates)) + "\n")
    for one in estimates:
        if one.gpu_bytes > card.memory_gb * GB:
            remedy = "more processes that share the weights, gradient checkpointing, smaller micro-batches, or adapters"
            print(f"{one.stage} does not fit {card.memory_gb} GB: {remedy} (lora)")
    print(f"{FORMULAS}\n\nTo replace set-resources in {settings.profile} (a half more than estimated):\n")
    print("\n".join(resources(estimates, settings.profile)), flush=True)


if __name__ == "__main__":
    run(Settings, main)
