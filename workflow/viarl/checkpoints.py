"""Training that survives a kill: checkpoints that know their configuration, a stop that saves first, whole models.

A training stage keeps `transformers.Trainer` checkpoints in a folder of its own that no rule declares. The folder holds
the identity of the training (settings and hashes of the inputs); checkpoints of another identity are never resumed.
A checkpoint counts only with its marker, written after all its files are on disk, and older ones go after that.

    checkpoints = Checkpoints(folder, identity({"seed": 1}, {"items": settings.items}))
    stop = CheckpointCallback(checkpoints)
    trainer = SomeTrainer(args=arguments(output_dir=str(folder), save_total_limit=None, ...), callbacks=[stop])
    trainer.train(resume_from_checkpoint=checkpoints.latest())
    stop.exit_if_interrupted()
    save_model(trainer.model, processor, output_folder)
    checkpoints.remove()
"""

import os
import select
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from viarl.files import read_json, sha256_file, sha256_json, write_json
from viarl.tracking import flatten

IDENTITY = "identity.json"
MARKER = "complete.json"
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def identity(settings: Mapping[str, Any], files: Mapping[str, Path | Sequence[Path]]) -> dict[str, str]:
    """Return what a training's result depends on: its settings (may be nested) and the content of its input files."""
    known = {key: str(value) for key, value in flatten(settings).items()}
    for name, paths in files.items():
        hashes = [sha256_file(path) for path in ([paths] if isinstance(paths, Path) else paths)]
        known[f"content of {name}"] = hashes[0] if len(hashes) == 1 else sha256_json(hashes)
    return known


class Checkpoints:
    """The checkpoints of one training: `folder`/checkpoint-N, written by a `Trainer` whose output_dir is `folder`.

    Args:
        folder: undeclared working folder, beside the outputs.
        identity: see the function `identity`.
        keep: complete checkpoints that are kept, the newest.
    """

    def __init__(self, folder: Path, identity: Mapping[str, str], keep: int = 1) -> None:
        self.folder, self.identity, self.keep = folder, dict(identity), keep

    def latest(self) -> Path | None:
        """Return the newest complete checkpoint, None at a fresh start; broken ones are removed.

        Errors: ValueError if it belongs to a training with other settings or inputs; says which, and the remedy.
        """
        complete = self._complete()
        path = self.folder / IDENTITY
        if complete:
            before = read_json(path) if path.exists() else {}
            names = sorted(name for name in {*before, *self.identity} if before.get(name) != self.identity.get(name))
            if names:
                changes = "; ".join(f"{name}: {before.get(name)} -> {self.identity.get(name)}" for name in names[:5])
                raise ValueError(
                    f"the checkpoints in {self.folder} belong to another training ({changes}); set these back to go on "
                    "with it, or delete that folder to train anew"
                )
        write_json(path, self.identity)
        for folder in self._all():
            if folder not in complete:
                shutil.rmtree(folder)
        return complete[-1] if complete else None

    def mark_complete(self, checkpoint: Path) -> None:
        """Flush a checkpoint's files to disk, mark it complete, then remove those that are no longer kept."""
        sizes: dict[str, int] = {}
        for file in sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != MARKER):
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
            sizes[str(file.relative_to(checkpoint))] = file.stat().st_size
        write_json(checkpoint / MARKER, sizes)
        for old in self._complete()[: -self.keep]:
            shutil.rmtree(old)

    def remove(self) -> None:
        """Remove the folder, once the training's result is saved."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _all(self) -> list[Path]:
        found = [path for path in self.folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
        return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))

    def _complete(self) -> list[Path]:
        return [path for path in self._all() if _is_complete(path)]


def _is_complete(checkpoint: Path) -> bool:
    try:
        sizes = read_json(checkpoint / MARKER)
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


class CheckpointCallback(TrainerCallback):
    """Marks each checkpoint when it is complete; on SIGTERM or SIGINT saves one after the step and ends the training.

    A second signal kills at once. With several processes, all stop when one was told to.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints
        self.interrupted = False  # whether training ended before its last step
        self.step = 0
        self._signalled = False
        self._before: dict[signal.Signals, Any] = {}

    def exit_if_interrupted(self) -> None:
        """End the process with status 1 if a signal ended the training; the message says how to go on."""
        if self.interrupted:
            raise SystemExit(
                f"stopped by a signal at step {self.step}; the checkpoint in {self.checkpoints.folder} holds it: "
                "run the same command again to go on from there"
            )

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Begin to listen for signals."""
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return control

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Ask for a checkpoint and the end of training when a signal has come."""
        self.step = state.global_step
        if _any_process(self._signalled) and state.global_step < state.max_steps:
            _leave_broken_pipes()
            self.interrupted = True
            control.should_save = control.should_training_stop = True
        return control

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Mark the checkpoint that was written."""
        if state.is_world_process_zero:
            self.checkpoints.mark_complete(self.checkpoints.folder / f"checkpoint-{state.global_step}")
        return control

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Stop listening."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        return control

    def _note(self, number: int, _: FrameType | None) -> None:
        self._signalled = True
        for known in SIGNALS:
            signal.signal(known, signal.SIG_DFL)
        _leave_broken_pipes()
        name = signal.Signals(number).name
        print(f"{name}: a checkpoint is saved after this step, then training ends", file=sys.stderr, flush=True)


def _any_process(flag: bool) -> bool:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return flag
    device = torch.device("cuda", torch.cuda.current_device()) if torch.distributed.get_backend() == "nccl" else None
    raised = torch.tensor(int(flag), device=device)
    torch.distributed.all_reduce(raised, torch.distributed.ReduceOp.MAX)
    return bool(raised.item())


def _leave_broken_pipes() -> None:
    """Send output nowhere if its reader is gone: Ctrl-C also ends the `tee` of a job, and a print must not end us."""
    for descriptor in (1, 2):
        poll = select.poll()
        poll.register(descriptor, 0)
        if any(event & select.POLLERR for _, event in poll.poll(0)):
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), descriptor)


def restore_weights(model: Any, checkpoint: Path) -> None:
    """Load a checkpoint's weights into a fully tuned model, exactly.

    For `Trainer._load_from_checkpoint`: its own loading expects other key names than `save_pretrained` writes for
    Qwen2.5-VL, and goes on with the old weights after a mere warning.
    """
    restored = type(model).from_pretrained(str(checkpoint), dtype=model.dtype)
    model.load_state_dict(restored.state_dict())


def save_model(model: Any, processor: Any, folder: Path, dtype: str | None = None) -> None:
    """Write an ordinary checkpoint folder (adapters merged into the weights, cast to `dtype` if given).

    The files are written aside, flushed and moved in; `model.safetensors`, which rules declare, comes last.
    """
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    if dtype is not None:
        model = model.to(getattr(torch, dtype))
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        aside.mkdir(parents=True)
        model.save_pretrained(aside, max_shard_size="1000GB")
        processor.save_pretrained(aside)
        weights = aside / "model.safetensors"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / weights.name).unlink(missing_ok=True)
        for file in [*sorted(path for path in aside.iterdir() if path != weights), weights]:
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
            file.replace(folder / file.name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
