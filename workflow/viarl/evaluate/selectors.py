"""Every selector on every item of a benchmark, at one frame budget and with one answerer.

To add a selector: a function in viarl.selection, and an entry in `TRAINING_FREE`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from viarl.answer.base import BaseAnswerer, Reply, Request
from viarl.answer.rotation import letter_before, rotated
from viarl.items import Item
from viarl.progress import Progress
from viarl.selection.evidence import evidence_recall
from viarl.selection.picks import GREEDY, SAMPLED, Pick
from viarl.selection.training_free import aks, bolt, clip_topk, item_generator, oracle, qframe, random
from viarl.selection.uniform import uniform

if TYPE_CHECKING:
    from viarl.video.cache import FrameCache


@dataclass(frozen=True)
class View:
    """What a training-free selector may look at; `scores` is None where CLIP has none."""

    item: Item
    count: int
    selected: int
    scores: np.ndarray | None
    times: np.ndarray
    generator: np.random.Generator


def _clip(view: View) -> np.ndarray:
    if view.scores is None:
        raise LookupError("no similarities")
    if len(view.scores) != view.count:
        what = f"item {view.item.id!r} has {len(view.scores)} similarities for {view.count} frames"
        raise ValueError(f"{what}; run score_frames again")
    return view.scores


TRAINING_FREE: dict[str, Callable[[View], list[int]]] = {
    "uniform": lambda view: uniform(view.count, view.selected),
    "random": lambda view: random(view.count, view.selected, view.generator),
    "clip_topk": lambda view: clip_topk(_clip(view), view.selected),
    "bolt": lambda view: bolt(_clip(view), view.selected),
    "aks": lambda view: aks(_clip(view), view.selected),
    "qframe": lambda view: qframe(_clip(view), view.selected, view.generator),
    "oracle": lambda view: oracle(view.times, view.item.evidence, view.selected),
}
DRAWN = ("random", "qframe")  # averaged over several draws
LEARNED = {  # whose picks, and which way of decoding
    "base": ("base", GREEDY),
    "base_sampled": ("base", SAMPLED),
    "learned": ("learned", GREEDY),
    "learned_sampled": ("learned", SAMPLED),
    "learned_base_answerer": ("learned", GREEDY),
}
UNTUNED = ("learned_base_answerer",)  # answered by the untouched answerer: what the selector gains without the tuning
BLIND = "blind"  # joins the oracle where evidence is unknown, see `choose`


@dataclass(frozen=True)
class Choice:
    """The frames a selector chose for an item. `rotation` moves the options on (the blind control)."""

    item: Item
    selector: str
    indices: tuple[int, ...] = ()
    draw: int = 0
    valid: bool = True
    reason: str = ""
    text: str = ""
    failed: str = ""
    rotation: int = 0
    best_of: int = 1


@dataclass(frozen=True)
class Sources:
    """Where selectors look: frames, similarities by item id, and picks {(whose, decode): {item id: pick}}."""

    cache: "FrameCache"
    scores: Mapping[str, np.ndarray]
    picks: Mapping[tuple[str, str], Mapping[str, Pick]] = field(default_factory=dict)


def choose(
    items: Sequence[Item], sources: Sources, selectors: Sequence[str], selected: int, draws: int
) -> list[Choice]:
    """Return every selector's choice for every item; random selectors choose `draws` times.

    Where an item has no evidence, the oracle is the best of `draws` random choices. That flatters it (some draw may be
    right by luck), so the selector "blind" then joins it, on all items: the best of as many replies without frames,
    each under another rotation of the options (so at most one an option). Neither is an accuracy of a single answer.

    A selector that cannot choose (bad video, no similarities, no picks) has a choice that says so in `failed`.
    ValueError for an unknown selector.
    """
    if unknown := set(selectors) - set(TRAINING_FREE) - set(LEARNED):
        known = sorted([*TRAINING_FREE, *LEARNED])
        raise ValueError(f"evaluation.selectors: {sorted(unknown)} are unknown; choose from {known}")
    names = list(selectors)
    if "oracle" in names and any(not item.evidence for item in items):
        names.append(BLIND)
    return [choice for item in items for name in names for choice in _choices(item, sources, name, selected, draws)]


def _choices(item: Item, sources: Sources, name: str, selected: int, draws: int) -> list[Choice]:
    if item.video not in sources.cache:
        reason = sources.cache.bad.get(item.video, "is not in the frame cache")
        return _failures(item, name, draws, "unreadable video", reason)
    if name in LEARNED:
        return [_learned(item, sources, name)]
    if name == BLIND:
        turns = min(draws, len(item.options))
        return [Choice(item, name, draw=turn, rotation=turn, best_of=turns) for turn in range(turns)]
    count, times = sources.cache.count(item.video), sources.cache.times(item.video)
    lucky = name == "oracle" and not item.evidence
    function = TRAINING_FREE["random" if lucky else name]
    drawn, scores = range(draws if name in DRAWN or lucky else 1), sources.scores.get(item.id)
    views = (View(item, count, selected, scores, times, item_generator(draw, item.id)) for draw in drawn)
    try:
        indices = [tuple(function(view)) for view in views]
    except LookupError as error:
        return _failures(item, name, draws, str(error))
    return [Choice(item, name, own, draw, best_of=draws if lucky else 1) for draw, own in enumerate(indices)]


def _failures(item: Item, name: str, draws: int, failed: str, reason: str = "") -> list[Choice]:
    """Return a failed choice for every draw, so that every item weighs the same in every mean."""
    turns = draws if name in DRAWN else 1
    return [Choice(item, name, draw=draw, valid=False, reason=reason, failed=failed) for draw in range(turns)]


def _learned(item: Item, sources: Sources, name: str) -> Choice:
    pick = sources.picks.get(LEARNED[name], {}).get(item.id)
    if pick is None:
        return Choice(item, name, valid=False, failed="no selection")
    if pick.failed:
        return Choice(item, name, valid=False, reason=pick.failed, failed="selection failed")
    return Choice(item, name, pick.indices, valid=pick.valid, reason=pick.reason, text=pick.text)


def evaluate(
    choices: Sequence[Choice], answerer: BaseAnswerer, sources: Sources, **labels: Any
) -> list[dict[str, Any]]:
    """Answer all choices and return rows as in viarl.evaluate.rows (`labels`: benchmark, cycle, protocol)."""
    asked = [choice for choice in choices if not choice.failed]
    requests = [Request(rotated(choice.item, choice.rotation), choice.indices) for choice in asked]
    replies = iter(answerer.answer(requests, Progress("answers", len(requests))))
    times: dict[str, np.ndarray] = {}
    rows: list[dict[str, Any]] = []
    best: dict[tuple[str, str], int] = {}
    for choice in choices:
        row = {**labels, **_row(choice, Reply("", "") if choice.failed else next(replies), sources, times)}
        if choice.best_of > 1:
            row.update(draw=0, reason=f"best of {choice.best_of}")
            key = (choice.item.id, choice.selector)
            if key in best:
                if row["correct"] and not rows[best[key]]["correct"]:
                    rows[best[key]] = row
                continue
            best[key] = len(rows)
        rows.append(row)
    return rows


def _row(choice: Choice, reply: Reply, sources: Sources, times: dict[str, np.ndarray]) -> dict[str, Any]:
    item = choice.item
    letter = letter_before(reply.letter, item, choice.rotation)
    recall = 0.0 if item.evidence else float("nan")
    if choice.indices:
        if item.video not in times:
            times[item.video] = sources.cache.times(item.video)
        recall = evidence_recall(times[item.video], item.evidence, choice.indices)
    return {
        **{name: getattr(item, name) for name in ("video", "task", "question", "answer")},
        **{name: getattr(choice, name) for name in ("selector", "draw", "valid", "reason", "text", "failed")},
        **{"item": item.id, "groups": list(item.groups), "indices": list(choice.indices), "reply": reply.text},
        **{"letter": letter, "correct": bool(item.answer) and letter == item.answer, "evidence_recall": recall},
    }
