"""Training questions that teach nothing are dropped before reinforcement learning.

The paper says only that CLIP samples frames and that less informative items are dropped; its rule is not published.
Three rules are offered, each judged by the untouched answerer; the data card says what each would drop.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from viarl.answer.base import BaseAnswerer, Request
from viarl.answer.rotation import rotated
from viarl.items import Item
from viarl.progress import Progress
from viarl.selection.training_free import clip_bottomk, clip_topk, item_generator, random
from viarl.training.settings import FilterSettings
from viarl.video.cache import FrameCache

RULE_TEXTS = {
    "none": "Every question whose video and answer are known is kept.",
    "blind": "Drop a question that is answered right without frames under every rotation of its options.",
    "contrast": (
        "Keep a question that is answered right with the K frames most similar to it (CLIP) and wrong without frames, "
        "or wrong with the K least similar frames; drop the others."
    ),
    "variance": (
        "Answer with {draws} draws of K random frames; drop what is always right{and_never}: there every selection "
        "earns the same reward."
    ),
}


@dataclass(frozen=True)
class Filter:
    """Judges items with the untouched answerer; a random draw depends on the seed and the item alone."""

    answerer: BaseAnswerer
    cache: FrameCache
    scores: Mapping[str, np.ndarray]  # CLIP similarities by item id; the contrast rule cannot judge items without
    selected: int  # K, frames the answerer sees
    seed: int
    settings: FilterSettings

    def reasons(self, items: Sequence[Item], rule: str) -> list[str]:
        """Return why each item is dropped under a rule, "" where it is kept.

        Items that no rule could use (bad video, unknown answer, no options) are dropped under every rule.
        """
        unusable = [self._unusable(item, rule) for item in items]
        judged = [item for item, reason in zip(items, unusable, strict=True) if not reason]
        judge = {"blind": self._blind, "contrast": self._contrast, "variance": self._variance}.get(rule)
        verdicts = iter(judge(judged) if judge else [""] * len(judged))
        return [reason or next(verdicts) for reason in unusable]

    def _text(self, rule: str) -> str:
        and_never = " or never right" if self.settings.drop_never_right else ""
        return RULE_TEXTS[rule].format(draws=self.settings.draws, and_never=and_never)

    def _unusable(self, item: Item, rule: str) -> str:
        if item.video not in self.cache:
            return "unreadable video"
        if not item.answer:
            return "unknown answer"
        if rule == "contrast" and item.id not in self.scores:
            return "no similarities"
        return ""

    def _right(self, requests: Sequence[Request], each: int) -> np.ndarray:
        """Return which replies are right, (items, each) bool, for requests that stand in that order."""
        replies = self.answerer.answer(requests, Progress("answers", len(requests)))
        right = [reply.letter == request.item.answer for reply, request in zip(replies, requests, strict=True)]
        return np.array(right, dtype=bool).reshape(-1, each)

    def _blind(self, items: Sequence[Item]) -> list[str]:
        requests = [Request(rotated(item, shift)) for item in items for shift in range(len(item.options))]
        right = self._right(requests, 1)[:, 0]
        ends = np.cumsum([len(item.options) for item in items], dtype=int).tolist()
        every = [right[end - len(item.options) : end].all() for item, end in zip(items, ends, strict=True)]
        return ["right without frames" if guessed else "" for guessed in every]

    def _contrast(self, items: Sequence[Item]) -> list[str]:
        requests = []
        for item in items:
            top, bottom = (tuple(pick(self.scores[item.id], self.selected)) for pick in (clip_topk, clip_bottomk))
            requests += [Request(item, top), Request(item), Request(item, bottom)]
        guessed = "right with unlike, wrong with like frames"
        return [
            "" if (top and not blind) or not bottom else "right without frames" if blind else guessed
            for top, blind, bottom in self._right(requests, 3).tolist()
        ]

    def _variance(self, items: Sequence[Item]) -> list[str]:
        draws = self.settings.draws
        requests = []
        for item in items:
            generator, count = item_generator(self.seed, item.id), self.cache.count(item.video)
            requests += [Request(item, tuple(random(count, self.selected, generator))) for _ in range(draws)]
        right = self._right(requests, draws).sum(1)
        never = "never right" if self.settings.drop_never_right else ""
        return ["always right" if hits == draws else never if hits == 0 else "" for hits in right.tolist()]

    def data_card(self, items: Sequence[Item], reasons: Sequence[str], survey: int = 200) -> dict[str, Any]:
        """Return what was found, kept and dropped: in all, by source and by task; and what each rule would drop.

        The comparison of rules is made on at most `survey` items, chosen by a hash of their ids.
        """
        sample = sorted(items, key=lambda item: hashlib.sha256(item.id.encode()).digest())[:survey]
        would = {
            rule: {
                "text": self._text(rule),
                "examined": len(sample),
                "would_drop": _counts(self.reasons(sample, rule)),
            }
            for rule in RULE_TEXTS
        }
        return {
            "rule": self.settings.rule,
            "rule_text": self._text(self.settings.rule),
            "draws": self.settings.draws,
            "drop_never_right": self.settings.drop_never_right,
            **_share(reasons),
            "by_source": _by(items, reasons, lambda item: item.source),
            "by_task": _by(items, reasons, lambda item: item.task),
            "bad_videos": {
                item.video: self.cache.bad.get(item.video, "not in the frame cache")
                for item in items
                if item.video not in self.cache
            },
            "rules": would,
        }


def _counts(reasons: Sequence[str]) -> dict[str, int]:
    return dict(sorted(Counter(filter(None, reasons)).items()))


def _share(reasons: Sequence[str]) -> dict[str, Any]:
    return {"found": len(reasons), "kept": reasons.count(""), "dropped": _counts(reasons)}


def _by(items: Sequence[Item], reasons: Sequence[str], name: Callable[[Item], str]) -> dict[str, Any]:
    groups: dict[str, list[str]] = {}
    for item, reason in zip(items, reasons, strict=True):
        groups.setdefault(name(item) or "unknown", []).append(reason)
    return {group: _share(own) for group, own in sorted(groups.items())}
