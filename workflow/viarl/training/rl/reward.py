"""The parts of a completion's reward (paper, section 3.2).

To add a part: a function here, and its weight under its name in `reward:` of config.yaml; log, MLflow, curves and
staleness follow. The configuration's check reads `PARTS` before any job, so nothing heavy is imported here.
"""

import functools
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from viarl.answer.base import Reply
    from viarl.items import Item
    from viarl.selection.prompt import Selection
    from viarl.training.rl.settings import SelectorTask


@dataclass(frozen=True)
class Outcome:
    """A completion and what came of it: what its parts of the reward may look at."""

    item: "Item"
    selection: "Selection"  # the completion as parsed against the video's true frame count
    reply: "Reply"  # of the answerer, who sees uniform frames where the list is invalid
    tokens: int  # the completion's length, the closing token included (as the authors count it)

    @property
    def correct(self) -> bool:
        """Whether the answerer is right, also where the list is invalid; it never is where the truth is unknown."""
        return bool(self.item.answer) and self.reply.letter == self.item.answer


Part = Callable[[Outcome, "SelectorTask"], float]
PARTS: dict[str, Part] = {}


def part(function: Part) -> Part:
    """Register a part under the function's name; what it returns is multiplied by its weight."""
    PARTS[function.__name__] = function
    return function


@part
def format(outcome: Outcome, task: "SelectorTask") -> float:
    """A think block, then an index block."""
    return outcome.selection.format_valid


@part
def index(outcome: Outcome, task: "SelectorTask") -> float:
    """Exactly K different numbers in range."""
    return outcome.selection.index_valid


@part
def answer(outcome: Outcome, task: "SelectorTask") -> float:
    """The answerer is right on the selected frames; uniform fallback frames are no merit of the selector."""
    return outcome.selection.index_valid and outcome.correct


@part
def length(outcome: Outcome, task: "SelectorTask") -> float:
    """The completion's length lies inside selector.length_range, both ends included."""
    shortest, longest = task.length_range
    return shortest <= outcome.tokens <= longest


def weighted(outcome: Outcome, task: "SelectorTask") -> dict[str, float]:
    """Return every part's reward by name; a part without a weight is worth 0."""
    return {name: task.reward.get(name, 0.0) * float(worth(outcome, task)) for name, worth in PARTS.items()}


def total(parts: Mapping[str, float]) -> float:
    """Return the sum of the parts, added in their order (`sum` rounds otherwise from Python 3.12 on)."""
    return functools.reduce(operator.add, parts.values(), 0.0)
