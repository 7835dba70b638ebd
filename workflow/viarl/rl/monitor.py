"""What a training shows while it runs: a progress line, and every number of every step in the tracking record."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from viarl.progress import Progress
from viarl.tracking import Run


class Monitor(TrainerCallback):
    """Passes what the trainer logs on to the tracking run, and prints progress with rate and remaining time.

    Args:
        what: the line's beginning ("selector steps").
        run: the tracking run, or None.
        shown: names of the numbers shown in the progress line.
    """

    def __init__(self, what: str, run: Run | None, shown: tuple[str, ...]) -> None:
        self.what, self.run, self.shown = what, run, shown
        self.progress: Progress | None = None
        self.step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Start the progress line; after a resume it counts the steps that are left."""
        self.step = state.global_step
        self.progress = Progress(self.what, state.max_steps - state.global_step)
        return control

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> TrainerControl:
        """Record one step's numbers (those that are not finite are left out)."""
        if not state.is_world_process_zero or not logs:
            return control
        numbers = {
            key: float(value) for key, value in logs.items() if isinstance(value, int | float) and math.isfinite(value)
        }
        if self.run is not None:
            self.run.log_metrics(numbers, state.global_step)
        if self.progress is not None and state.global_step > self.step:
            note = ", ".join(f"{name} {numbers[name]:.3g}" for name in self.shown if name in numbers)
            self.progress.advance(state.global_step - self.step, note)
            self.step = state.global_step
        return control


class StepLog:
    """Sums of a step's numbers, turned into means over all processes when the step is logged; seconds by phase."""

    def __init__(self, device: torch.device, sum_over_processes: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.device, self.sum_over_processes = device, sum_over_processes
        self._sums: dict[str, list[float]] = {}
        self._seconds: dict[str, float] = {}

    def add(self, name: str, total: float, count: float = 1.0) -> None:
        """Add `count` values that sum to `total`; NaN means that there is none, but keeps the name known."""
        held = self._sums.setdefault(name, [0.0, 0.0])
        if not math.isnan(total):
            held[0] += total
            held[1] += count

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the seconds of a phase."""
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start

    def flush(self, whole: float, rest: str) -> dict[str, float]:
        """Return the means, and the seconds of this process; of `whole` seconds, `rest` are those of no phase.

        Every process must have added the same names.
        """
        names = sorted(self._sums)
        totals = torch.tensor([self._sums[name] for name in names], dtype=torch.float32, device=self.device)
        pairs = zip(names, self.sum_over_processes(totals).tolist(), strict=True)
        means = {name: total / count for name, (total, count) in pairs if count}
        self._seconds[rest] = max(0.0, whole - sum(self._seconds.values()))
        means |= {f"seconds/{name}": value for name, value in self._seconds.items()}
        self._sums, self._seconds = {}, {}
        return means
