"""What the tests of the training stages share: their settings, a signal amid a step, the weights that they write."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from viarl.tracking.record import Tracking


class SignalAt(TrainerCallback):
    """Sends a process of the training a signal at the beginning of a step (from 0), before its forward pass."""

    def __init__(self, step: int, number: signal.Signals = signal.SIGTERM, rank: int = 0) -> None:
        self.step, self.number, self.rank = step, number, rank

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step and args.process_index == self.rank:
            os.kill(os.getpid(), self.number)


def recorded(kind: Any, folder: Path, output: str, **own: Any) -> Any:
    """Return settings of a stage, on the CPU, that reads the items in a folder and keeps a record there."""
    record = Tracking(record=folder / "record.jsonl", root=folder, defer_below_s=1e9)
    items, output_ = folder / "items.jsonl", folder / output / "model.safetensors"
    return kind(items=items, manifests=(), output=output_, seed=1, device="cpu", tracking=record, **own)


def run_stage(stage: Any, settings: Any, name: str) -> dict[str, torch.Tensor]:
    """Run a stage into a folder of that name; return the saved weights."""
    model = settings.output.parent.name
    settings = replace(settings, output=settings.output.parents[2] / name / model / "model.safetensors")
    stage.main(settings)
    assert not (settings.output.parents[1] / "checkpoints" / model).exists()
    return load_file(settings.output)
