"""What a training shows while it runs: a progress line, and every number of every step in the tracking record."""

import math
from typing import Any

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
