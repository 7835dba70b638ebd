"""Labels for the selector's supervised start: which frames of a training question are said to be the right ones.

clip_topk  the K candidate frames most similar to the question (CLIP): pseudo-labels, as in the paper
oracle     K frames spread inside the evidence, filled up with those nearest to it in time
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from viarl.items import Item
from viarl.selection.training_free import clip_topk, item_generator, oracle, random
from viarl.training.sft.dataset import Example
from viarl.video.cache import FrameCache

LABELS = ("clip_topk", "oracle")
TOO_LONG = "reply longer than selector.max_new_tokens"
_WORDS = (  # English words that name nothing to look for
    "a an and are as at be been by can could did do does for from has have how in into is it its of on or s should "
    "than that the their there these they this those to was were what when where which who whom whose why will "
    "with would you your"
)
FUNCTION_WORDS = frozenset(re.findall(r"\w+", _WORDS))


@dataclass(frozen=True)
class Labels:
    """Labels of questions, one of `LABELS`; ValueError for another kind.

    `noise` is the share of the questions whose label is replaced by K random frames. That depends on the seed and on
    the item's id alone; more noise leaves less noise's as it is.
    """

    kind: str
    cache: FrameCache
    scores: Mapping[str, np.ndarray]  # of the candidate frames by item id, for clip_topk
    selected: int
    noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in LABELS:
            raise ValueError(f"selector.start.labels {self.kind!r} gives no labels; choose one of {list(LABELS)}")

    def missing(self, item: Item) -> str:
        """Return why an item can have no label, "" if it can."""
        if item.video not in self.cache:
            return f"no frames: {self.cache.bad.get(item.video)}"
        if self.kind == "oracle":
            return "" if item.evidence else "no evidence"
        return "" if item.id in self.scores else "no similarities"

    def is_noise(self, item: Item) -> bool:
        """Return whether the item's label is replaced by random frames."""
        return bool(self._generator(item).random() < self.noise)

    def frames(self, item: Item) -> tuple[int, ...]:
        """Return the label of an item that can have one, sorted; ValueError for similarities of other frames."""
        count, generator = self.cache.count(item.video), self._generator(item)
        if generator.random() < self.noise:  # the draw of `is_noise`
            return tuple(random(count, self.selected, generator))
        if self.kind == "oracle":
            return tuple(oracle(self.cache.times(item.video), item.evidence, self.selected))
        own = self.scores[item.id]
        if len(own) != count:
            raise ValueError(f"item {item.id!r} has {len(own)} similarities for {count} frames; run score_frames again")
        return tuple(clip_topk(own, self.selected))

    def _generator(self, item: Item) -> np.random.Generator:
        return item_generator(self.seed, f"label of {item.id}")


def reply_text(question: str, frames: Sequence[int]) -> str:
    """Return a reply in the selector's format that names these frames.

    Its thought lists the question's keywords, the first step that the paper's prompt asks for, and goes no further: a
    label does not say how its frames were found. Only words, so that no mark of the format gets into it.
    """
    words = re.findall(r"\w+(?:[-'\u2019]\w+)*", question)
    keywords = [word for word in words if word.casefold() not in FUNCTION_WORDS] or words
    return f"<think>{' '.join(keywords)}</think><index>[{', '.join(map(str, frames))}]</index>"


def examples(
    items: Sequence[Item], labels: Labels, tokenizer: Any, max_new_tokens: int
) -> tuple[list[Example], dict[str, str]]:
    """Return the examples of all items that can be learned from, and by id why the others cannot.

    An item needs a label, and a reply that, its closing token counted, is no longer than the selector may write.
    """
    usable: list[Example] = []
    reasons: dict[str, str] = {}
    for item in items:
        if reason := labels.missing(item):
            reasons[item.id] = reason
            continue
        frames = labels.frames(item)
        text = reply_text(item.question, frames)
        if len(tokenizer(text, add_special_tokens=False)["input_ids"]) + 1 > max_new_tokens:
            reasons[item.id] = TOO_LONG
        else:
            usable.append(Example(item, frames, text))
    return usable, reasons
