"""Subtitles: what is read of an .srt file, good or bad, and which lines belong to the selected frames."""

import random
from pathlib import Path

import pytest

from tests import layouts
from viarl.datasets.subtitles import Subtitles, plain, read_srt, spoken

FONT = '<font color="white" size=".72c">{}</font>'


def read(tmp_path: Path, text: str | bytes) -> Subtitles:
    path = tmp_path / "film.srt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_srt(path)


def test_a_file_as_published_is_read_with_its_mark_its_line_ends_and_its_tags(tmp_path: Path) -> None:
    assert read(tmp_path, layouts.SRT) == Subtitles(
        ((0.0, 1.5, "it begins with a walk"), (1.0, 2.4, "and goes on & on")), bad=1
    )


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_numbers_may_be_missing_and_times_written_loosely(tmp_path: Path, end: str) -> None:
    text = end.join(["00:00:01,5 --> 00:00:02.25", "one", "two", "", "1:02 --> 01:02:03,004 align:start", "42", "", ""])
    assert read(tmp_path, text).spans == ((1.5, 2.25, "one two"), (62.0, 3723.004, "42"))


def test_blocks_without_an_empty_line_between_them_are_told_apart(tmp_path: Path) -> None:
    found = read(tmp_path, "1\n00:00:01,000 --> 00:00:02,000\none\n2\n00:00:02,000 --> 00:00:03,000\n2\n")
    assert found == Subtitles(((1.0, 2.0, "one"), (2.0, 3.0, "2")), 0)


@pytest.mark.parametrize(
    "block",
    [
        "2\n00:00:09,000 --> 00:00:04,000\nbackwards",
        "2\n00:00:04,000 --> 00:00:05,000\n",
        f"2\n00:00:04,000 --> 00:00:05,000\n{FONT.format('')}",
        "2\nsoon --> later\nno times",
        "2\n00:00:04,000 -> 00:00:05,000\nno arrow",
        "stray text",
    ],
)
def test_bad_blocks_are_counted_and_take_no_good_one_with_them(tmp_path: Path, block: str) -> None:
    good = ["1\n00:00:01,000 --> 00:00:02,000\none", "3\n00:00:06,000 --> 00:00:07,000\nthree"]
    found = read(tmp_path, "\n\n".join([good[0], block, good[1]]))
    assert found == Subtitles(((1.0, 2.0, "one"), (6.0, 7.0, "three")), 1)
    assert read(tmp_path, "\n\n".join([block, *good])).bad == 1 and read(tmp_path, "\n\n".join([*good, block])).bad == 1


def test_an_empty_file_holds_nothing_and_another_kind_of_file_is_bad(tmp_path: Path) -> None:
    assert read(tmp_path, "") == read(tmp_path, "\ufeff\n\n") == Subtitles((), 0)
    assert read(tmp_path, "<html>Not found</html>") == Subtitles((), 1)
    assert read(tmp_path, b"1\n00:00:01,000 --> 00:00:02,000\ncaf\xe9").spans[0][2] == "caf\ufffd"


def test_tags_go_and_what_only_looks_like_one_stays() -> None:
    assert plain('<i>one</i> <font color="white" size=".72c">two</font>{\\an8}') == "one two"
    assert plain("go &lt;|im_end|&gt; on <|im_<|image_pad|>end|> <|x|>") == "go on <|im_ end|> <|x|>"
    assert plain("a < b &lt;c&gt;  and\n5 > 3") == "a < b <c> and 5 > 3"


def test_lines_are_those_at_the_times_in_the_order_of_the_file_each_once() -> None:
    spans = ((0.0, 2.0, "one"), (1.0, 3.0, "two"), (1.0, 3.0, "two"), (5.0, 6.0, "three"), (8.0, 9.0, "four"))
    assert spoken(spans, [5.5, 1.0, 1.5]) == "one\ntwo\ntwo\nthree"  # spans count, not their texts
    assert spoken(spans, [2.0]) == "two\ntwo" and spoken(spans, [6.0]) == spoken(spans, []) == ""


def test_files_broken_at_random_are_read(tmp_path: Path) -> None:
    rng = random.Random(0)
    text = "".join(
        f"{number}\n00:00:{number:02},000 --> 00:00:{number + 1:02},500\n{FONT.format(f'line {number}')}\n\n"
        for number in range(1, 20)
    ).encode()
    for _ in range(200):
        content = bytearray(text)
        for _ in range(rng.randrange(1, 9)):
            at = rng.randrange(len(content))
            content[at : at + rng.randrange(30)] = rng.choice([b"", b"\0", b"\n\n", b"-->", b"<", rng.randbytes(5)])
        found = read(tmp_path, bytes(content))
        assert all(start <= end and line and "\n" not in line for start, end, line in found.spans)
        assert found.spans
