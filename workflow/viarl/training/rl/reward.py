"""The composite reward of one completion (paper, section 3.2; the table is in the README).

One function holds all parts because they depend on each other: the answer counts only where the index list is valid,
as otherwise the answerer has seen uniform fallback frames that are no merit of the selector.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from viarl.answer.base import Reply, Request
from viarl.items import Item
from viarl.selection.evidence import evidence_recall
from viarl.selection.prompt import Selection, parse_selection
from viarl.training.rl.settings import RewardWeights
from viarl.video.cache import FrameCache


class Answers(Protocol):
    """Whoever answers questions on selected frames (viarl.answer.base.BaseAnswerer)."""

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """Return one reply a request, in order."""


@dataclass(frozen=True)
class Reward:
    """The weighted parts of a completion's reward; each is 0 or its weight."""

    format: float
    index: float
    answer: float
    length: float

    @property
    def total(self) -> float:
        """The sum of the parts."""
        return self.format + self.index + self.answer + self.length


@dataclass(frozen=True)
class Scored:
    """A completion with its reward. `correct` is the answerer's success, also where the list was invalid."""

    reward: Reward
    selection: Selection
    letter: str
    correct: bool
    tokens: int

    def measures(self) -> dict[str, float]:
        """Return what the log averages over completions."""
        parts = {f"reward/{name}": getattr(self.reward, name) for name in ("format", "index", "answer", "length")}
        return parts | {
            "reward/total": self.reward.total,
            "valid_rate": float(self.selection.index_valid),
            "answer_accuracy": float(self.correct),
            "completion_tokens": float(self.tokens),
        }


def composite_reward(
    selection: Selection, tokens: int, correct: bool, weights: RewardWeights, length_range: Sequence[int]
) -> Reward:
    """Return the reward of one completion.

    Args:
        selection: the completion as parsed against the video's true frame count.
        tokens: its length, the closing token included (as the authors count it).
        correct: whether the answerer was right on the selected frames.
        weights: what each part is worth.
        length_range: shortest and longest length that earns the length part, both included.
    """
    shortest, longest = length_range
    return Reward(
        format=weights.format * selection.format_valid,
        index=weights.index * selection.index_valid,
        answer=weights.answer * (selection.index_valid and correct),
        length=weights.length * (shortest <= tokens <= longest),
    )


def score_completions(
    items: Sequence[Item],
    counts: Sequence[int],
    texts: Sequence[str],
    tokens: Sequence[int],
    answers: Answers,
    *,
    selected: int,
    weights: RewardWeights,
    length_range: Sequence[int],
) -> list[Scored]:
    """Score completions, one item, frame count, text and length each; the answerer is asked once for all.

    Every completion is answered, those with an invalid list on the uniform fallback frames, so that the log shows how
    often the answerer is right; the reward counts it only where the list is valid.
    """
    selections = [parse_selection(text, count, selected) for text, count in zip(texts, counts, strict=True)]
    requests = [Request(item, selection.indices) for item, selection in zip(items, selections, strict=True)]
    scored = []
    for item, selection, length, reply in zip(items, selections, tokens, answers.answer(requests), strict=True):
        correct = bool(item.answer) and reply.letter == item.answer
        reward = composite_reward(selection, length, correct, weights, length_range)
        scored.append(Scored(reward, selection, reply.letter, correct, length))
    return scored


class RecallOf:
    """Evidence recall of an item's selected frames, for the log; frame times are read once a video."""

    def __init__(self, cache: FrameCache) -> None:
        self._times = functools.lru_cache(maxsize=None)(cache.times)

    def __call__(self, item: Item, frames: Sequence[int]) -> float:
        """Return the recall, NaN where the evidence is unknown."""
        return evidence_recall(self._times(item.video), item.evidence, frames)
