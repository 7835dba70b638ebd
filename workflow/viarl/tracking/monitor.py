"""What a training shows while it runs: a progress line, and the numbers of every step in the tracking record."""

import math
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from viarl.progress import Progress
from viarl.tracking.record import Run


class Monitor(TrainerCallback):
    """Passes what the trainer logs on to the tracking run, and prints progress with rate and remaining time.

    `shown` are in the progress line, which begins with `what`; `only` (none: all) are recorded, named with `prefix`.
    """

    def __init__(
        self, what: str, run: Run, shown: tuple[str, ...], prefix: str = "", only: tuple[str, ...] = ()
    ) -> None:
        self.what, self.run, self.shown, self.prefix, self.only = what, run, shown, prefix, only
        self.progress: Progress | None = None

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> TrainerControl:
        """Start the progress line; after a resume it counts the steps that are left."""
        if state.is_world_process_zero:
            self.progress = Progress(self.what, state.max_steps - state.global_step)
        return control

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **_: Any
    ) -> TrainerControl:
        """Record one step's numbers (those that are not finite are left out)."""
        if self.progress is None or logs is None or "loss" not in logs:  # the last call counts from the resumption
            return control
        given = {key: value for key, value in logs.items() if isinstance(value, int | float)}
        numbers = {key: float(value) for key, value in given.items() if math.isfinite(value)}
        if "valid_rate" in numbers:
            numbers["invalid_rate"] = 1.0 - numbers["valid_rate"]
        chosen = {f"{self.prefix}{key}": value for key, value in numbers.items() if not self.only or key in self.only}
        self.run.log_metrics(chosen, state.global_step)
        self.progress.advance(1, ", ".join(f"{name} {numbers[name]:.3g}" for name in self.shown if name in numbers))
        return control
