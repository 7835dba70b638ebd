"""Filter rules on an answerer whose replies are known."""

from collections.abc import Sequence

import numpy as np
import pytest
from small_answerer import MemoryCache, item, small_answerer

from viarl.answer.answerer import Reply, Request
from viarl.filtering import Filter, FilterSettings, rotated
from viarl.items import Item

CACHE = MemoryCache({"v0": 8, "v1": 8}, bad={"v2": "does not open"})
SCORES = np.arange(8) / 10  # the top 2 are frames 6 and 7, the bottom 2 are 0 and 1


class Scripted:
    """Answers right where `knows` says so, given the item and its frames; else names another letter."""

    def __init__(self, knows) -> None:
        self.knows, self.requests = knows, 0

    def answer(self, requests: Sequence[Request], progress: object = None) -> list[Reply]:
        self.requests += len(requests)
        wrong = {"A": "B", "B": "C", "C": "D", "D": "A"}
        letters = [r.item.answer if self.knows(r.item, r.frames) else wrong[r.item.answer] for r in requests]
        return [Reply(letter, letter) for letter in letters]


def reasons(knows, rule: str, items: Sequence[Item], **settings) -> list[str]:
    scores = {own.id: SCORES for own in items}
    return Filter(Scripted(knows), CACHE, scores, 2, 0, FilterSettings(rule, **settings)).reasons(items, rule)


def test_rotation_moves_options_and_letter_together() -> None:
    own = item(0, answer="B")
    for shift in range(5):
        turned = rotated(own, shift)
        assert turned.options["ABCD".index(turned.answer)] == own.options[1]
    assert rotated(own, 1).options == (own.options[3], *own.options[:3]) and rotated(own, 1).answer == "C"
    assert rotated(own, 4) == own


def test_blind_drops_what_is_right_under_every_rotation_only() -> None:
    items = [item(0), item(1)]
    sometimes = lambda own, frames: own.id == "q0" or own.answer in "ABC"  # noqa: E731
    assert reasons(sometimes, "blind", items) == ["right without frames", ""]


def test_blind_counts_each_items_own_options() -> None:
    two = Item("two", "v0", "which?", ("star", "moon"), "B")
    assert reasons(lambda own, frames: own.id == "two", "blind", [item(0), two, item(1)]) == [
        "",
        "right without frames",
        "",
    ]


@pytest.mark.parametrize(
    ("top", "blind", "bottom", "kept"),
    [
        (True, False, False, True),
        (True, False, True, True),
        (True, True, False, True),
        (True, True, True, False),
        (False, False, False, True),
        (False, False, True, False),
        (False, True, False, True),
        (False, True, True, False),
    ],
)
def test_contrast_keeps_top_right_and_blind_wrong_or_bottom_wrong(top: bool, blind: bool, bottom: bool, kept) -> None:
    right = {(6, 7): top, (): blind, (0, 1): bottom}
    (reason,) = reasons(lambda own, frames: right[frames], "contrast", [item(0)])
    assert (reason == "") == kept


def test_variance_drops_always_right_and_if_told_never_right() -> None:
    items = [item(0), item(1), item(2)]
    seen: list[tuple[int, ...]] = []

    def knows(own: Item, frames: tuple[int, ...]) -> bool:
        seen.append(frames)
        return own.id == "q0" or (own.id == "q1" and frames == seen[6])

    assert reasons(knows, "variance", items, draws=6) == ["always right", "", ""]
    assert len(seen) == 18 and len({frame for frames in seen for frame in frames}) == 8
    seen.clear()
    assert reasons(knows, "variance", items, draws=6, drop_never_right=True) == ["always right", "", "never right"]


def test_items_that_no_rule_can_use_are_dropped_by_every_rule() -> None:
    items = [item(0), item(1, "v2"), item(2, answer="")]
    for rule in ("none", "blind", "contrast", "variance"):
        dropped = reasons(lambda own, frames: False, rule, items, drop_never_right=False)
        assert dropped == ["", "unreadable video", "unknown answer"]
    judge = Filter(Scripted(lambda own, frames: False), CACHE, {}, 2, 0, FilterSettings())
    assert judge.reasons(items[:1], "contrast") == ["no similarities"]


def test_data_card() -> None:
    items = [item(0, source="needle", task="end"), item(1, source="needle"), item(2, "v2", source="mine")]
    scores = {own.id: SCORES for own in items}
    judge = Filter(Scripted(lambda own, frames: own.id == "q0"), CACHE, scores, 2, 0, FilterSettings("blind"))
    card = judge.data_card(items, judge.reasons(items, "blind"))
    assert (card["found"], card["kept"]) == (3, 1)
    assert card["dropped"] == {"right without frames": 1, "unreadable video": 1}
    assert card["by_source"]["needle"] == {"found": 2, "kept": 1, "dropped": {"right without frames": 1}}
    assert card["by_source"]["mine"] == {"found": 1, "kept": 0, "dropped": {"unreadable video": 1}}
    assert card["by_task"]["end"]["kept"] == 0 and card["bad_videos"] == {"v2": "does not open"}
    assert "every rotation" in card["rule_text"]
    assert {rule: sum(entry["would_drop"].values()) for rule, entry in card["rules"].items()} == {
        "none": 1,
        "blind": 2,
        "contrast": 2,
        "variance": 2,
    }


@pytest.mark.parametrize(("setting", "match"), [({"rule": "guess"}, "filter.rule"), ({"draws": 0}, "filter.draws")])
def test_impossible_settings_are_refused(setting: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        FilterSettings(**setting)


def test_real_answerer_gives_the_same_verdicts_twice() -> None:
    items = [item(number, f"v{number % 2}", answer="ABCD"[number % 4]) for number in range(6)]
    scores = {own.id: SCORES for own in items}
    verdicts = [
        Filter(small_answerer(CACHE, size), CACHE, scores, 2, 0, FilterSettings()).reasons(items, "contrast")
        for size in (4, 64)
    ]
    assert verdicts[0] == verdicts[1]
