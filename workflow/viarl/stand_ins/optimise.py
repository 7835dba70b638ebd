"""How all stand-ins are optimised."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

from viarl.progress import Progress

Share = Callable[[int, int], float]  # of a step and the number of steps


def cosine(step: int, steps: int, floor: float = 0.0) -> float:
    """Return the share of the peak learning rate: linear warm-up, then a cosine down to `floor`."""
    return min((step + 1) / 20, max(floor, 0.5 * (1 + math.cos(math.pi * step / steps))))


class Optimiser:
    """AdamW with clipped gradients; `share` gives each step its part of the peak `rate`, and `adamw` the rest."""

    def __init__(
        self, what: str, parameters: Iterable[torch.nn.Parameter], rate: float, steps: int, share: Share, **adamw: Any
    ) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.progress = Progress(what, steps)
        self._adam = torch.optim.AdamW(self.parameters, lr=rate, **adamw)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._adam, lambda step: share(step, steps))

    def step(self, loss: torch.Tensor, note: str = "") -> None:
        """Take one step on a loss."""
        self._adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self._adam.step()
        self._schedule.step()
        self.progress.advance(1, note or f"loss {loss.item():.3f}")
