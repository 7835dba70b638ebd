"""Filter rules on an answerer whose replies are known."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from small_answerer import MemoryCache, item, save_vlm, small_answerer, small_vlm
from viarl.answer.answerer import Reply, Request
from viarl.answer.rotation import letter_before, rotated
from viarl.answer.settings import AnswererSettings
from viarl.command import parse
from viarl.files import read_json
from viarl.items import Item, read_items, write_records
from viarl.selection.similarities import write_scores
from viarl.stages import filter_guessable
from viarl.training.filtering import Filter
from viarl.training.settings import FilterSettings

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

    def counts(self) -> dict[str, int]:
        return {"asked": self.requests}


def reasons(knows, rule: str, items: Sequence[Item], **settings) -> list[str]:
    scores = {own.id: SCORES for own in items}
    return Filter(Scripted(knows), CACHE, scores, 2, 0, FilterSettings(rule=rule, **settings)).reasons(items, rule)


def test_rotation_moves_options_and_letter_together() -> None:
    own = item(0, answer="B")
    for shift in range(5):
        turned = rotated(own, shift)
        assert turned.options["ABCD".index(turned.answer)] == own.options[1]
        assert letter_before(turned.answer, own, shift) == "B" and letter_before("", own, shift) == ""
    assert rotated(own, 1).options == (own.options[3], *own.options[:3]) and rotated(own, 1).answer == "C"
    assert rotated(own, 4) == own
    unknown = rotated(item(0, answer=""), 1)
    assert unknown.answer == "" and unknown.options == (own.options[3], *own.options[:3])
    assert rotated(Item("open", "v0", "why?", (), ""), 2).options == ()


def test_blind_drops_what_is_right_under_every_rotation_only() -> None:
    items = [item(0), item(1)]
    sometimes = lambda own, frames: own.id == "q0" or own.answer in "ABC"  # noqa: E731
    assert reasons(sometimes, "blind", items) == ["right without frames", ""]


def test_blind_counts_each_items_own_options() -> None:
    two = Item("two", "v0", "which?", ("star", "moon"), "B")
    dropped = reasons(lambda own, frames: own.id == "two", "blind", [item(0), two, item(1)])
    assert dropped == ["", "right without frames", ""]


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
    judge = Filter(Scripted(lambda own, frames: own.id == "q0"), CACHE, scores, 2, 0, FilterSettings(rule="blind"))
    card = judge.data_card(items, judge.reasons(items, "blind"))
    assert (card["found"], card["kept"]) == (3, 1)
    assert card["dropped"] == {"right without frames": 1, "unreadable video": 1}
    assert card["by_source"]["needle"] == {"found": 2, "kept": 1, "dropped": {"right without frames": 1}}
    assert card["by_source"]["mine"] == {"found": 1, "kept": 0, "dropped": {"unreadable video": 1}}
    assert card["by_task"]["end"]["kept"] == 0 and card["bad_videos"] == {"v2": "does not open"}
    assert "every rotation" in card["rule_text"]
    dropped = {rule: sum(entry["would_drop"].values()) for rule, entry in card["rules"].items()}
    assert dropped == {"none": 1, "blind": 2, "contrast": 2, "variance": 2}


@pytest.mark.parametrize(("setting", "match"), [({"rule": "guess"}, "rule"), ({"draws": 0}, "draws")])
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


def test_stage_writes_the_kept_items_and_the_data_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filter_guessable, "FrameCache", lambda manifests: CACHE)
    save_vlm(small_vlm(), tmp_path / "answerer")
    items = [item(number, f"v{number % 2}", answer="ABCD"[number % 4], source="needle") for number in range(6)]
    write_records(tmp_path / "items.jsonl", [*items, item(9, "v2")])
    write_scores(tmp_path / "0.safetensors", {own.id: SCORES.astype(np.float32) for own in items})
    settings = {"seed": 1, "selected": 2, "filter": {"rule": "contrast"}, "device": "cpu"}
    line = ["--settings", json.dumps({**settings, "answerer": {"prompt": "short", "max_new_tokens": 4}})]
    files = {"items": "items.jsonl", "manifests": "0.json", "scores": "0.safetensors", "answerer-model": "answerer"}
    for name, file in (files | {"output": "train_items.jsonl", "report": "report.json"}).items():
        line += [f"--{name}", str(tmp_path / file)]
    filter_guessable.main(parse(filter_guessable.Settings, line))
    card, kept = read_json(tmp_path / "report.json"), read_items(tmp_path / "train_items.jsonl")
    assert card["found"] == 7 and card["kept"] == len(kept) and card["dropped"]["unreadable video"] == 1
    assert card["found"] - card["kept"] == sum(card["dropped"].values())
    assert {own.id for own in kept} <= {own.id for own in items}


def test_stage_refuses_to_drop_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filter_guessable, "FrameCache", lambda manifests: CACHE)
    monkeypatch.setattr(filter_guessable, "load_answerer", lambda *_: Scripted(lambda own, frames: True))
    items, output, report = (tmp_path / name for name in ("items.jsonl", "train_items.jsonl", "report.json"))
    write_records(items, [item(0)])
    rule, answerer = FilterSettings(rule="blind"), AnswererSettings(prompt="short", max_new_tokens=4)
    settings = filter_guessable.Settings(items, (), (), tmp_path, output, report, 1, 2, rule, answerer)
    with pytest.raises(ValueError, match="drops all 1 questions"):
        filter_guessable.main(settings)
    assert not settings.output.exists()
