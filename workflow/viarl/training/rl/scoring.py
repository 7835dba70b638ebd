"""Completions scored: parsed, answered on the frames that they name, rewarded."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from viarl.answer.base import Reply, Request
from viarl.items import Item
from viarl.selection.evidence import evidence_recall
from viarl.selection.prompt import parse_selection
from viarl.training.rl.reward import Outcome, total, weighted
from viarl.training.rl.settings import SelectorTask
from viarl.video.cache import FrameCache


class Answers(Protocol):
    """Whoever answers questions on selected frames, one reply a request (viarl.answer.base.BaseAnswerer)."""

    def answer(self, requests: Sequence[Request]) -> list[Reply]: ...


@dataclass(frozen=True)
class Scored:
    """What came of a completion, and the weighted parts of its reward."""

    outcome: Outcome
    reward: dict[str, float]

    @property
    def total(self) -> float:
        """The sum of the parts."""
        return total(self.reward)

    def measures(self) -> dict[str, float]:
        """Return what the log averages over completions."""
        return {f"reward/{name}": value for name, value in self.reward.items()} | {
            "reward/total": self.total,
            "valid_rate": float(self.outcome.selection.index_valid),
            "answer_accuracy": float(self.outcome.correct),
            "completion_tokens": float(self.outcome.tokens),
        }


def score_completions(
    items: Sequence[Item],
    counts: Sequence[int],
    texts: Sequence[str],
    tokens: Sequence[int],
    answers: Answers,
    task: SelectorTask,
) -> list[Scored]:
    """Score completions, one item, frame count, text and length each; the answerer is asked once for all.

    Those with an invalid list are answered on the uniform fallback frames, for the log.
    """
    selections = [parse_selection(text, count, task.selected) for text, count in zip(texts, counts, strict=True)]
    requests = [Request(item, selection.indices) for item, selection in zip(items, selections, strict=True)]
    known = zip(items, selections, answers.answer(requests), tokens, strict=True)
    return [Scored(outcome, weighted(outcome, task)) for outcome in (Outcome(*each) for each in known)]


class RecallOf:
    """Evidence recall of an item's selected frames, for the log; frame times are read once a video."""

    def __init__(self, cache: FrameCache) -> None:
        self._times = functools.lru_cache(maxsize=None)(cache.times)

    def __call__(self, item: Item, frames: Sequence[int]) -> float:
        """Return the recall, NaN where the evidence is unknown."""
        return evidence_recall(self._times(item.video), item.evidence, frames)
