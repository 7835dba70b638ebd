"""The item schema: what is read back, and one clear line for each kind of bad record."""

import json
from pathlib import Path

import pytest

from viarl.items import Item, Video, read_items, read_videos, write_records

GOOD = {"id": "q1", "video": "v1", "question": "Which?", "options": ["a", "b"], "answer": "B"}


def test_items_and_videos_survive_a_round_trip(tmp_path: Path) -> None:
    items = [Item("q1", "v1", "Wörter?", ("a", "b"), "B", "end", 8.0, ((1.0, 2.5),), "needle")]
    write_records(tmp_path / "items.jsonl", items)
    assert read_items(tmp_path / "items.jsonl") == items
    write_records(tmp_path / "none.jsonl", [])
    assert read_items(tmp_path / "none.jsonl") == []
    write_records(tmp_path / "videos.jsonl", [Video("v1", "videos/v1.mp4", 3, "ab")])
    assert read_videos(tmp_path / "videos.jsonl")["v1"].path == str((tmp_path / "videos/v1.mp4").resolve())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "C"}, "answer 'C' is not one of the letters"),
        ({"id": "../q"}, "must be 1-200 letters"),
        ({"video": 7}, "must be 1-200 letters"),
        ({"options": "ab"}, "options must be a list"),
        ({"options": ["a"] * 11}, "at most 10"),
        ({"question": "  "}, "question must be a non-empty text"),
        ({"evidence": [[3, 1]]}, "ends before it starts"),
        ({"extra": 1}, "unknown fields"),
    ],
)
def test_a_bad_record_is_refused_by_line_and_field(tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + json.dumps({**GOOD, "id": "q2", **change}) + "\n")
    with pytest.raises(ValueError, match=message) as error:
        read_items(path)
    assert "items.jsonl line 2" in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{]\n", "not JSON"),
        (b"[1]\n", "expected a JSON object"),
        (b"\xff\xfe\n", "not UTF-8"),
        (json.dumps({k: v for k, v in GOOD.items() if k != "options"}).encode(), "'options' is missing"),
        ((json.dumps(GOOD) + "\n").encode() * 2, "used before"),
        ((json.dumps(GOOD) + "\n").encode(), "the empty line that ends the file is missing"),
        (b"", "the empty line that ends the file is missing"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "items.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_items(path)
