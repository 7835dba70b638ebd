"""Kept replies: crash-safe, shared by writers at the same time, set aside when damaged, never fatal."""

import os
import signal
from pathlib import Path

import pytest

from processes import end_of, in_child, start_child
from small_answerer import StoredCache, item, small_answerer
from viarl.answer.base import Request
from viarl.files import read_json, sha256_json
from viarl.models.reply_cache import ReplyCache

KNOWN = {"weights": "abc"}


def request(number: int) -> str:
    return sha256_json(number)


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.jsonl"))


def test_replies_come_back_in_another_process(tmp_path: Path) -> None:
    texts = ["star A", "", 'quotes " and \n line ends', "\ud800 alone"]

    def write() -> None:
        kept = ReplyCache(tmp_path, KNOWN)
        for number, text in enumerate(texts):
            kept.put(request(number), text)

    assert in_child(write) == 0
    kept = ReplyCache(tmp_path, KNOWN)
    assert [kept.get(request(number)) for number in range(4)] == texts and kept.get(request(4)) is None
    assert read_json(kept.folder / "identity.json") == KNOWN
    assert len(files(tmp_path)) == 1  # who only reads writes no file
    assert ReplyCache(tmp_path, {"weights": "abd"}).get(request(0)) is None


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    def write(which: int) -> None:
        kept = ReplyCache(tmp_path, KNOWN)
        for number in range(200):
            kept.put(request(number * 4 + which), f"reply {number * 4 + which}")

    children = [start_child(lambda which=which: write(which)) for which in range(4)]
    assert [end_of(child) for child in children] == [0] * 4
    kept = ReplyCache(tmp_path, KNOWN)
    assert [kept.get(request(number)) for number in range(800)] == [f"reply {number}" for number in range(800)]


def test_a_kill_loses_no_whole_line(tmp_path: Path) -> None:
    def write() -> None:
        kept = ReplyCache(tmp_path, KNOWN)
        kept.put(request(0), "whole")
        assert kept._file is not None
        kept._file.write('["torn')
        kept._file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(write) == -signal.SIGKILL
    kept = ReplyCache(tmp_path, KNOWN)
    assert kept.get(request(0)) == "whole" and len(kept) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.replace(b"star", b"moon"),
        lambda data: b"\x00" * len(data) + b"\n",
        lambda data: b"[1, 2]\n" + data,
        lambda data: b"\xff\xfe" + data,
        lambda data: data.replace(b"]", b'"', 1),
    ],
)
def test_a_damaged_file_is_set_aside(tmp_path: Path, capfd: pytest.CaptureFixture[str], damage) -> None:
    for number in range(2):
        ReplyCache(tmp_path, KNOWN).put(request(number), f"star {number}")
    bad, _ = files(tmp_path)
    bad.write_bytes(damage(bad.read_bytes()))
    kept = ReplyCache(tmp_path, KNOWN)
    assert len(kept) == 1 and len(files(tmp_path)) == 1
    assert f"set aside as {bad.with_suffix('.damaged')}" in capfd.readouterr().err
    ReplyCache(tmp_path, KNOWN)
    assert "damaged" not in capfd.readouterr().err


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "replies").write_text("a file in the way")
    kept = ReplyCache(tmp_path / "replies", KNOWN)
    kept.put(request(0), "star")
    assert kept.get(request(0)) == "star"
    assert capfd.readouterr().err.count("replies are not kept") == 1


def test_kept_replies_are_those_that_would_be_computed(tmp_path: Path) -> None:
    asked = [Request(item(number, "v0"), (number % 3, 4)) for number in range(8)]
    plain = small_answerer(StoredCache({"v0": 6})).answer(asked)
    first = small_answerer(StoredCache({"v0": 6}), replies=ReplyCache(tmp_path, KNOWN))
    assert first.answer(asked[:4]) == plain[:4]
    second = small_answerer(StoredCache({"v0": 6}), replies=ReplyCache(tmp_path, KNOWN))
    assert second.answer(asked) == plain
    assert (second.found, second.asked) == (4, 4)
