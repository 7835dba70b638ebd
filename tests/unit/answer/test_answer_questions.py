"""answer_questions: a row for every question, also for one that failed."""

import csv
from pathlib import Path

import pytest

from small_answerer import MemoryCache, item, save_vlm, small_vlm
from viarl.answer.settings import AnswererSettings
from viarl.items import Item, Video, write_records
from viarl.selection.picks import GREEDY, Pick, write_picks
from viarl.stages import answer_questions
from viarl.stages.answer_questions import COLUMNS, Settings, main


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    save_vlm(small_vlm(), tmp_path / "answerer")
    monkeypatch.setattr(answer_questions, "FrameCache", lambda manifests: MemoryCache({"v0": 8}))
    items = [item(0), Item("open", "v0", "what is shown?", (), ""), item(2, "v9")]
    write_records(tmp_path / "items.jsonl", items)
    write_records(tmp_path / "videos.jsonl", [Video("v0", "/films/a film.mp4", 1, ""), Video("v9", "b.mp4", 1, "")])
    text = "<think>the card, then</think><index>[1, 5]</index>"
    picks = [
        Pick("q0", "v0", GREEDY, text, True, "", (1, 5), 9),
        Pick("open", "v0", GREEDY, "<index>[1, 1]</index>", False, "repeated numbers", (0, 7), 4),
        Pick("q2", "v9", GREEDY, "", False, "", (), 0, "video v9: it is cut short"),
    ]
    write_picks(tmp_path / "picks.parquet", picks)
    names = ("items.jsonl", "videos.jsonl", "picks.parquet", "answerer", "answers.csv")
    items, videos, *others = (tmp_path / name for name in names)
    return Settings(items, videos, (), *others, AnswererSettings(prompt="short", max_new_tokens=4), device="cpu")


def test_every_question_has_a_row(settings: Settings) -> None:
    main(settings)
    with settings.output.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["id"] for row in rows] == ["q0", "open", "q2"] and tuple(rows[0]) == COLUMNS
    first, opened, failed = rows
    assert first["video"] == "/films/a film.mp4" and first["thinking"] == "the card, then"
    assert first["times_s"] == "1.00 5.00" and first["frames"] == "1 5"
    assert bool(first["answer"]) == bool(first["answer_text"]) != ("names no option" in first["problem"])
    assert opened["answer"] == opened["reply"] != "" and opened["answer_text"] == ""
    assert opened["problem"].startswith("the selector wrote no valid list (repeated numbers)")
    assert failed["problem"] == "video v9: it is cut short" and failed["answer"] == failed["times_s"] == ""


def test_picks_of_another_set_are_refused(settings: Settings) -> None:
    write_records(settings.items, [item(5)])
    with pytest.raises(ValueError, match=r"lacks \['q5'\].*run select_frames again"):
        main(settings)
