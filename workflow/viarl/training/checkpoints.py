"""Training that survives a kill: checkpoints that know their configuration, a stop that saves first, whole models.

A training stage keeps `transformers.Trainer` checkpoints in a folder of its own that no rule declares. Those of another
identity (settings and hashes of the inputs) are never resumed. A checkpoint counts only with its marker, written after
all its files are on disk, and older ones go after that. One process at a time has the folder (viarl.lock).
"""

import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from transformers import TrainerCallback, TrainerControl, TrainerState

from viarl.faults import Outage
from viarl.files import clear_write_errors, read_json, sha256_json, write_json
from viarl.lock import LOCK, OWNER, SUCCESSOR, FolderLock
from viarl.models.save import flush_files, restore_weights, save_model
from viarl.models.shards import trained_model
from viarl.processes import any_process, layout, meet, of_first, rank
from viarl.progress import leave_broken_pipes, say

IDENTITY = "identity.json"
MARKER = "complete.json"


def working_folder(model: Path) -> Path:
    """Return where the training of a model folder keeps its checkpoints: beside it, as no rule declares them."""
    return model.parent / "checkpoints" / model.name


class Checkpoints:
    """The checkpoints of one training: `folder`/checkpoint-N, written by a `Trainer` whose output_dir is `folder`.

    `identity` is the training's (viarl.identity.identity); the newest `keep` complete checkpoints stay.
    """

    def __init__(self, folder: Path, identity: Mapping[str, str], keep: int = 1) -> None:
        self.folder, self.identity, self.keep = folder, {**identity, **layout()}, keep
        self.lock = FolderLock(folder)
        self.first = rank() == 0  # of several processes one has the lock and writes

    def __enter__(self) -> Self:
        if self.first:
            self.lock.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self.first:
            self.lock.__exit__(*error)

    def latest(self) -> Path | None:
        """Return the newest complete checkpoint, None at a fresh start; broken ones are removed.

        Errors: ValueError if it belongs to a training with other settings or inputs; says which, and the remedy.
        """
        path = self.folder / IDENTITY
        if complete := self._complete():
            before = read_json(path) if path.exists() else {}
            names = sorted(name for name in {*before, *self.identity} if before.get(name) != self.identity.get(name))
            if names:
                changes = "; ".join(f"{name}: {before.get(name)} -> {self.identity.get(name)}" for name in names[:5])
                raise ValueError(
                    f"the checkpoints in {self.folder} belong to another training ({changes}); set these back to go on "
                    "with it, or delete that folder to train anew"
                )
        if self.first:
            self.lock.check()
            write_json(path, self.identity)
            for folder in set(self._all()) - set(complete):
                shutil.rmtree(folder)
        return complete[-1] if complete else None

    def note(self, name: str) -> Any:
        """Return what `keep_note` kept under that name for this very training, None if there is nothing."""
        path = self.folder / f"{name}.json"
        kept = read_json(path) if path.exists() else {}
        return kept.get("value") if kept.get("identity") == sha256_json(self.identity) else None

    def keep_note(self, name: str, value: Any) -> None:
        """Keep a JSON value that a resumed training would else have to compute again."""
        if self.first:
            self.lock.check()
            write_json(self.folder / f"{name}.json", {"identity": sha256_json(self.identity), "value": value})

    def mark_complete(self, checkpoint: Path) -> None:
        """Flush a checkpoint's files to disk, mark it complete, then remove those that are no longer kept."""
        with clear_write_errors(checkpoint):
            sizes = flush_files(checkpoint)
        sizes.pop(MARKER, None)
        self.lock.check()
        write_json(checkpoint / MARKER, sizes)
        for old in self._complete()[: -self.keep]:
            shutil.rmtree(old)

    def finish(self, trainer: Any, processor: Any, folder: Path, dtype: str | None = None) -> dict[str, float]:
        """Save the trained model, then remove the checkpoints (collective).

        Returns: what `save_model` measured, for the record; nothing in other processes than the first.
        """
        self.lock.check()
        model, measured = trained_model(trainer), {}
        if self.first:
            measured = save_model(model, processor, folder, dtype)
            self.remove()
        meet()  # no process ends before the model is saved
        return measured

    def remove(self) -> None:
        """Remove what is in the folder, once the training's result is saved; the lock goes when it is released."""
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name not in (LOCK, OWNER, SUCCESSOR):
                path.unlink(missing_ok=True)

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

    Its `with` block ends the process with status 143 (or 130) if a signal ended the training, also where that was
    waiting for a service. Clusters send SIGTERM several times, so a second one changes nothing; a second Ctrl-C ends at
    once. With several processes, all stop when one was told to.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints
        self.step = self.last = 0
        self._signalled: signal.Signals | None = None
        self._moment = 0.0
        self._before: dict[signal.Signals, Any] = {}

    @property
    def signalled(self) -> bool:
        """Whether a signal has come: a wait for a service may be given up by an Outage."""
        return self._signalled is not None

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        gave_up = kind is not None and issubclass(kind, Outage) and self.signalled
        if gave_up or (kind is None and self.step < self.last):
            say(
                f"stopped by a signal at step {self.step} of {self.last}; the checkpoint in {self.checkpoints.folder} "
                "holds it: run the same command again to go on from there"
            )
            raise SystemExit(128 + (self._signalled or signal.SIGTERM))

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save and log as often as the configuration says: a training that goes on has that from its checkpoint."""
        state.compute_steps(args, state.max_steps)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> TrainerControl:
        """Ask for a checkpoint and the end of training when a signal has come; LockError without the folder's lock."""
        self.checkpoints.lock.check()
        self.step, self.last = state.global_step, state.max_steps
        if any_process(self.signalled):
            leave_broken_pipes()
            control.should_save = control.should_training_stop = True
        return control

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> TrainerControl:
        """Mark the checkpoint that was written."""
        if state.is_world_process_zero:
            self.checkpoints.mark_complete(self.checkpoints.folder / f"checkpoint-{state.global_step}")
        return control

    def _note(self, number: int, _: FrameType | None) -> None:
        again, now = self._signalled is not None, time.monotonic()
        if again and number == signal.SIGINT and now - self._moment > 1:  # one Ctrl-C may arrive twice
            raise KeyboardInterrupt
        if not again:
            self._signalled, self._moment = signal.Signals(number), now
            leave_broken_pipes()
            say(f"{self._signalled.name}: a checkpoint is saved after this step, then training ends")


class ExactResume:
    """Base of the trainers, before TRL's: checkpoints are written whole or not at all, and restored exactly.

    Where a service's outage ends the training, the state after the last step is saved first.
    """

    adapters = False  # whether the checkpoints hold adapters, which transformers restores by itself

    def train(self, resume_from_checkpoint: str | None = None, **options: Any) -> Any:
        """Train; all processes go on from the first one's checkpoint. An Outage is raised once its steps are saved."""
        trainer: Any = self
        step = of_first(int(resume_from_checkpoint.rpartition("-")[2]) if resume_from_checkpoint else 0)
        folder = Path(resume_from_checkpoint).parent if resume_from_checkpoint else Path(trainer.args.output_dir)
        resumed = str(folder / f"checkpoint-{step}") if step else None
        try:
            return super().train(resume_from_checkpoint=resumed, **options)  # type: ignore[misc]
        except Outage:
            step = trainer.state.global_step
            if step and not _is_complete(Path(trainer.args.output_dir) / f"checkpoint-{step}"):
                self._save_checkpoint(trainer.model, None)
                trainer.callback_handler.on_save(trainer.args, trainer.state, trainer.control)
            say(f"{step} of {trainer.state.max_steps} steps are in {trainer.args.output_dir}")
            raise

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        trainer: Any = self
        folder = Path(trainer.args.output_dir) / f"checkpoint-{trainer.state.global_step}"
        try:
            with clear_write_errors(folder):
                super()._save_checkpoint(model, trial)  # type: ignore[misc]
            meet()  # it is whole when every process has written its part
        except BaseException:
            if trainer.is_world_process_zero():
                shutil.rmtree(folder, ignore_errors=True)  # half written; on a full disk it is also in the way
            raise

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        trainer: Any = self
        if self.adapters or trainer.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
        else:
            restore_weights(model or trainer.model, Path(resume_from_checkpoint))

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write no card: the checkpoint folder is a working folder."""

    def _send_telemetry(self) -> None:
        """Send nothing."""
