"""The numbers of one training step: means over all processes, and the seconds of its phases."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


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
        """Return the means (collective), and this process's seconds; of `whole`, `rest` are those of no phase."""
        names = sorted(self._sums)
        totals = torch.tensor([self._sums[name] for name in names], dtype=torch.float32, device=self.device)
        pairs = zip(names, self.sum_over_processes(totals).tolist(), strict=True)
        means = {name: total / count for name, (total, count) in pairs if count}
        self._seconds[rest] = max(0.0, whole - sum(self._seconds.values()))
        seconds = {f"seconds/{name}": value for name, value in self._seconds.items()}
        self._sums, self._seconds = {}, {}
        return means | seconds
