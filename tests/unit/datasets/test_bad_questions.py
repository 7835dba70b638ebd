"""Mistakes in files of questions: each is named in one clear line, with the remedy, and nothing is written.

The tables hold (what is given, a pattern that the line must match). The user's own files go through the command line of
the stage that reads them.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from said import one_line
from viarl.command import run
from viarl.faults import LISTED
from viarl.files import LONGEST_LINE
from viarl.items import read_items, read_videos
from viarl.stages import import_local

# ------------------------------------------------------------------------------------------- the user's own questions

HEADER = "video,question,options,answer"
GOOD_ROW = "v1.mp4,Q,a|b,A"
CSV: dict[str, tuple[str, str]] = {
    "no such video": ("v9.mp4,Q,a|b,A", "video: 'v9.mp4' is no file in .*; correct the name or add the file"),
    "a folder": ("sub,Q,a|b,A", "video: 'sub' is no file but a folder or device"),
    "a folder named like a video": ("film.mp4,Q,a|b,A", "video: 'film.mp4' is no file but a folder"),
    "a named pipe": ("pipe.mp4,Q,a|b,A", "video: 'pipe.mp4' is no file but a folder or device"),
    "empty video": ("empty.mp4,Q,a|b,A", r"video: 'empty\.mp4' is empty \(0 bytes\); copy it again"),
    "no video": (",Q,a|b,A", "video: empty; give the file's name"),
    "absolute": ("/etc/hosts,Q,a|b,A", "video: '/etc/hosts' is absolute; give it relative"),
    "upwards": ("../secret.mp4,Q,a|b,A", "video: .* leads out of local.folder"),
    "upwards inside": ("sub/../../secret.mp4,Q,a|b,A", "video: .* leads out of local.folder"),
    "link outwards": ("link.mp4,Q,a|b,A", "video: .* leads out of local.folder"),
    "link through a folder": ("outside/secret.mp4,Q,a|b,A", "video: .* leads out of local.folder"),
    "link to itself": ("loop.mp4,Q,a|b,A", "video: 'loop.mp4' cannot be opened .*loop"),
    "long name": ("v" * 300 + ",Q,a|b,A", "video: 'v{120}'… .*cannot be opened .File name too long.; correct the name"),
    "control character": ("v\x071.mp4,Q,a|b,A", r"video: 'v\\x071.mp4' holds a control character; rename the file"),
    "line end in name": ('"v\n1.mp4",Q,a|b,A', r"row 3: video: 'v\\n1.mp4' holds a control character; rename the file"),
    "another case": ("V2.mp4,Q,a|b,A", "video: 'V2.mp4' is no file in .*; 'v2.mp4' differs in case only: write that"),
    "no suffix": ("v2,Q,a|b,A", "video: 'v2' is no file in .*; 'v2.mp4' differs in suffix only: write that"),
    "two suffixes": ("v2.old,Q,a|b,A", "video: 'v2.old' is no file in .*; 'v2.mp4' differs in suffix only: write that"),
    "a suffix within": (
        "a.film,Q,a|b,A",
        "video: 'a.film' is no file in .*; 'a.film.mkv' differs in suffix only: write",
    ),
    "a folder's case": (
        r"SUB\A,Q,a|b,A",
        "video: 'SUB/A' is no file in .*; 'sub/a.mkv' differs in case and suffix only",
    ),
    "a wide colon": (
        "At 9: one.mp4,Q,a|b,A",
        "video: .* is no file in .*; 'At 9\uff1a one.mp4' differs in width of letters only",
    ),
    "one of two": (
        "v1,Q,a|b,A",
        "video: 'v1' is no file in .*; 'V1.MP4' and 'v1.mp4' differ in suffix only: write one of",
    ),
    "absolute on Windows": (
        r"C:\films\v1.mp4,Q,a|b,A",
        r"video: 'C:\\\\films\\\\v1.mp4' is absolute; give it relative",
    ),
    "upwards on Windows": (r"..\secret.mp4,Q,a|b,A", "video: .* leads out of local.folder"),
    "alike outside": ("outside/SECRET.mp4,Q,a|b,A", "video: .* leads out of local.folder"),
    "no question": ("v1.mp4, ,a|b,A", "question: empty; write the question, or remove the row"),
    "one option": ("v1.mp4,Q,a,A", r"options: 1 given; give 2 to 10, in CSV separated by \|"),
    "eleven options": ("v1.mp4,Q,a|b|c|d|e|f|g|h|i|j|k,A", "options: 11 given"),
    "empty option": ("v1.mp4,Q,a||b,A", "options: .* holds an empty option; remove it"),
    "option twice": ("v1.mp4,Q,a|b|a,B", "options: .* holds an option twice; make them different"),
    "option twice for the eye": (
        "v1.mp4,Q,caf\u00e9|cafe\u0301,B",
        "options: .* holds an option twice; make them different",
    ),
    "options with their letters": ("v1.mp4,Q,A) a|B) b,B", "options: .* begin with letters, which are put before"),
    "options with small letters": ("v1.mp4,Q,a. x|b. y,B", "options: .* begin with letters, which are put before"),
    "a list that breaks off": (
        'v1.mp4,Q,"[""a|b"", ""c]",A',
        r'options: .* is no list of texts; write \["yes", "no"\], or yes|no',
    ),
    "token in the question": (
        "v1.mp4,What is <|video_pad|>?,a|b,A",
        r"question: .* holds <\|video_pad\|>, which models take for",
    ),
    "token in a listed option": (
        'v1.mp4,Q,"[""a"", ""b <|im_end|>""]",A',
        r"options: .* holds <\|im_end\|>, which .*; write it oth",
    ),
    "a place": (
        "v1.mp4,Q,red|blue,1",
        "answer: '1' may count from 0 or from 1; write the option's letter, or its text",
    ),
    "case alone": (
        "v1.mp4,Q,polish|Polish,POLISH",
        "answer: 'POLISH' is the text of option A, and the text of option B; rew",
    ),
    "no options": ("v1.mp4,Q,,A", "answer: 'A', but there are no options; add them"),
    "no answer": ("v1.mp4,Q,a|b,", "answer: empty, but training needs options and answer"),
    "neither": ("v1.mp4,Q,,", "options: empty, but training needs options and answer"),
    "E of four": ("v1.mp4,Q,a|b|c|d,E", "answer: 'E' is neither one of ABCD nor the text of an option; correct it"),
    "not an option": ("v1.mp4,Q,red|blue,green", "answer: 'green' is neither one of AB nor the text of an option"),
    "two meanings": ("v1.mp4,Q,b|a,A", "answer: 'A' is a letter, and the text of option B; reword"),
    "a comma": ("v1.mp4,Q, and more,a|b,A", "not the 4 columns of the header; put texts that hold commas in quotes"),
    "too few columns": ("v1.mp4,Q", "not the 4 columns of the header"),
    "open quotes": ('v1.mp4,"Q,a|b,A', r"row \d: no valid CSV .*; check its quotes"),
}

GOOD = {"video": "v1.mp4", "question": "Q", "options": ["a", "b"], "answer": "A"}
JSONL: dict[str, tuple[Any, str]] = {
    "cut off": ("{", r"not JSON \(.* at character 2\); write one JSON object a line"),
    "trailing comma": ('{"video": "v1.mp4", "question": "Q",}', r"not JSON \(.*\); write one JSON object a line"),
    "a number in a list": (
        [1],
        "not a JSON object but a number; write one JSON object a line, or all of them in one list",
    ),
    "a list in a list": ([[1]], "not a JSON object but a list"),
    "a number": (3, "not a JSON object but a number"),
    "null": (None, "not a JSON object but null"),
    "nested without end": ("[" * 100_000, "nested too deeply"),
    "a number without end": ('{"video": ' + "9" * 10_000 + "}", "row 1: Exceeds the limit"),
    "unknown field": ({**GOOD, "anwser": "A"}, r"unknown fields \['anwser'\]; known are"),
    "missing field": ({"video": "v1.mp4"}, "question: the field is missing; add it"),
    "twice": ('{"video": "v1.mp4", "question": "Q", "video": "v2.mp4"}', "video: the field comes twice; remove one"),
    "a place": (
        {**GOOD, "answer": 1},
        "answer: 1 may count from 0 or from 1; write the option's letter, or its text in qu",
    ),
    "a bad option": ({**GOOD, "options": ["a", "\ud800"]}, "options: holds a character that is none"),
    "number for a text": ({**GOOD, "question": 3}, "question: 3 is no text; put it in quotes"),
    "options as a mapping": ({**GOOD, "options": {"A": "a"}}, "options: .* is no list of texts"),
    "an option as a number": ({**GOOD, "options": ["a", 2]}, "options: .* is no list of texts"),
    "half a surrogate pair": ('{"video": "v1.mp4", "question": "\\ud800"}', "question: holds a character that is none"),
    "zero character": ({**GOOD, "question": "Q\0"}, r"question: holds a character that is none \(a zero byte"),
    "evidence": ({**GOOD, "evidence": [1, 2]}, "evidence: .* is no list of spans"),
    "evidence as text": ({**GOOD, "evidence": "from 3 to 4"}, "evidence: .* is no list of spans"),
    "evidence reversed": ({**GOOD, "evidence": [[4, 3]]}, "evidence: 4.0-3.0 s must begin at 0 or later"),
    "evidence without end": ({**GOOD, "evidence": [[0, 1e999]]}, "Infinity is no JSON number; write a finite number"),
}


def sparse(path: Path, begin: bytes = b"", size: int = 10**9) -> None:
    """Make a file of one line of a gigabyte that takes no room: zero bytes after the beginning."""
    with path.open("wb") as handle:
        handle.write(begin)
        handle.truncate(size)


FILES: dict[str, tuple[str, bytes | Callable[[Path], None], str]] = {
    "empty": ("a.csv", b"", "a.csv: empty; the first row names the columns: video, question"),
    "blank": ("a.csv", b"\n \n", "a.csv: empty; the first row names the columns"),
    "header only": ("a.csv", HEADER.encode(), "a.csv: holds no questions; add one a row"),
    "empty JSONL": ("a.jsonl", b"\n", "a.jsonl: holds no questions; add one a row"),
    "semicolons": ("a.csv", b"video;question\nv1.mp4;Q", "row 1: unknown fields .*columns are separated by commas"),
    "column twice": ("a.csv", b"video,question,video\n", "row 1: video: the field comes twice; remove one"),
    "column missing": ("a.csv", b"question\nQ", "row 1: video: the field is missing; add it"),
    "tabs too many": ("a.tsv", b"video\tquestion\nv1.mp4\tQ\tR", "row 2: not the 2 columns .*texts that hold tabs"),
    "a spreadsheet": ("a.xlsx", b"PK", r"the name must end in \.csv, \.tsv, \.jsonl, \.json; rename it"),
    "Latin-1": (
        "a.csv",
        f"{HEADER}\nv1.mp4,Qué,a|b,A".encode("latin-1"),
        r"line 2: not UTF-8 \(byte 39\); save it as UTF",
    ),
    "UTF-16": ("a.csv", f"{HEADER}\n{GOOD_ROW}".encode("utf-16"), "a.csv: is UTF-16; save it as UTF-8"),
    "UTF-16, no mark": ("a.csv", HEADER.encode("utf-16-le"), r"line 1: holds a zero byte \(byte 1\); save it as UTF-8"),
    "UTF-32": ("a.jsonl", json.dumps(GOOD).encode("utf-32"), "a.jsonl: is UTF-32; save it as UTF-8"),
    "zero byte": ("a.csv", f"{HEADER}\nv1.mp4,Q\0,a|b,A".encode(), r"line 2: holds a zero byte \(byte 38\)"),
    "a line of 1 GB": ("a.jsonl", sparse, f"line 1: longer than {LONGEST_LINE} bytes"),
    "a row of 1 GB": ("a.csv", lambda path: sparse(path, HEADER.encode() + b"\nv1.mp4,"), "line 2: longer than"),
    "a named pipe": ("a.csv", os.mkfifo, "local.questions .* is not a file; give a CSV or JSONL file"),
    "a folder": ("a.csv", Path.mkdir, "local.questions .* is not a file"),
    "not there": ("a.csv", lambda path: None, "local.questions .* is not a file"),
    "id twice": (
        "a.csv",
        b"id,video,question,options,answer\nq,v1.mp4,Q,a|b,A\nq,v2.mp4,Q,a|b,A\n",
        "row 3: id: 'q' names an earlier question too",
    ),
    "names that differ in case": (
        "a.csv",
        f"{HEADER}\n{GOOD_ROW}\n{GOOD_ROW.replace('v1.mp4', 'V1.MP4')}\n".encode(),
        "row 3: video: 'V1.MP4' differs from 'v1.mp4' in case only; rename one of them",
    ),
}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files that are named like videos; the import does not decode them."""
    folder = tmp_path_factory.mktemp("films") / "videos"
    (folder / "sub").mkdir(parents=True)
    for name in ("v1.mp4", "v2.mp4", "V1.MP4", "a.film.mkv", "sub/a.mkv", "At 9\uff1a one.mp4"):
        (folder / name).write_bytes(name.encode())
    (folder / "empty.mp4").touch()
    (folder / "film.mp4").mkdir()
    os.mkfifo(folder / "pipe.mp4")
    (folder.parent / "secret.mp4").write_bytes(b"outside")
    (folder / "link.mp4").symlink_to(folder.parent / "secret.mp4")
    (folder / "outside").symlink_to(folder.parent)
    (folder / "loop.mp4").symlink_to(folder / "loop.mp4")
    return folder


@dataclass(frozen=True)
class Import:
    """Runs the stage import_local as its command line does."""

    folder: Path
    output: Path
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def __call__(self, questions: Path) -> str:
        """Return what it says on standard error; assert that it fails in a few seconds and writes nothing."""
        settings = json.dumps({"set": "local_train", "validation_share": 0.5})
        items, videos = str(self.output / "items.jsonl"), str(self.output / "videos.jsonl")
        paths = ["--folder", str(self.folder), "--questions", str(questions), "--items", items, "--videos", videos]
        paths += ["--known-hashes", str(self.output.parent / "hashes.json")]
        self.monkeypatch.setattr(sys, "argv", ["import_local", "--settings", settings, *paths])
        start = time.monotonic()
        with pytest.raises(SystemExit) as stopped:
            run(import_local.Settings, import_local.main)
        assert stopped.value.code == 1 and time.monotonic() - start < 5
        assert not self.output.exists()
        return self.capsys.readouterr().err


@pytest.fixture
def refused(films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Import:
    return Import(films, tmp_path / "out", monkeypatch, capsys)


@pytest.mark.parametrize("name", CSV)
def test_row_of_a_csv(name: str, refused: Import, tmp_path: Path) -> None:
    row, pattern = CSV[name]
    path = tmp_path / "questions.csv"
    path.write_text(f"{HEADER}\n{row}\n")
    place = "" if pattern.startswith("row") else "row 2: "
    one_line(refused(path), f"^error: {path} {place}{pattern}")


@pytest.mark.parametrize("name", JSONL)
def test_line_of_a_jsonl(name: str, refused: Import, tmp_path: Path) -> None:
    record, pattern = JSONL[name]
    path = tmp_path / "questions.jsonl"
    path.write_text(record if isinstance(record, str) else json.dumps(record))
    place = "" if pattern.startswith("row") else "row 1: "
    one_line(refused(path), f"^error: {path} {place}.*{pattern}")


GOOD_LINE = json.dumps(GOOD)
BROKEN = {  # has many rows, and one fault
    "cut off": (
        f"[\n{GOOD_LINE},\n{GOOD_LINE[:-3]}",
        r"line 3: not JSON \(Unterminated .* at char.*; correct the list there",
    ),
    "no comma": (f"[\n{GOOD_LINE}\n{{}}\n]", r"line 3: not JSON \(a comma or \] is missing at character 1\)"),
    "a comma too many": (f"[\n{GOOD_LINE},\n]", r"line 3: not JSON \(Expecting value at character 1\)"),
    "two lists": ("[\n]\n[\n]", r"line 3: not JSON \(more follows behind the list at character 1\)"),
    "a list in an object": (
        json.dumps({"data": [GOOD]}, indent=1),
        r"row 1: not JSON .* in one list.*; the \d+ rows behind",
    ),
    "a web page": ("<html>\n<p>\nNot found\n</html>", "row 1: not JSON .*; the 3 rows behind it are none either"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_fault(name: str, refused: Import, tmp_path: Path) -> None:
    content, pattern = BROKEN[name]
    path = tmp_path / "questions.json"
    path.write_text(content)
    one_line(refused(path), f"^error: {path} {pattern}")


def test_faults_of_a_list_are_told_by_row(refused: Import, tmp_path: Path) -> None:
    path = tmp_path / "questions.json"
    twice = '{"video": "v1.mp4", "video": "v2.mp4", "question": "Q"}'
    path.write_text(f"[{json.dumps(GOOD)},\n 3, {twice}, {json.dumps({**GOOD, 'answer': 'E'})}, {{}}]")
    rows = [line.partition(f"{path} ")[2].split(";")[0] for line in refused(path).splitlines()]
    assert rows == [
        "row 2: not a JSON object but a number",
        "row 3: video: the field comes twice",
        "row 4: answer: 'E' is neither one of AB nor the text of an option",
        "row 5: video: the field is missing",
    ]


@pytest.mark.parametrize("name", FILES)
def test_whole_file_of_questions(name: str, refused: Import, tmp_path: Path) -> None:
    called, content, pattern = FILES[name]
    path = tmp_path / called
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)
    message = refused(path)
    assert message.startswith("error: ") and str(path) in message
    one_line(message.splitlines()[-1], pattern)


def test_all_faults_come_at_once_a_line_each(refused: Import, tmp_path: Path) -> None:
    """Also those before a place behind which nothing can be read."""
    path = tmp_path / "questions.csv"
    path.write_text("\n".join([HEADER, *(f"w{number}.mp4,Q,a|b,A" for number in range(70))]))
    lines = refused(path).splitlines()
    assert len(lines) == LISTED + 1 and all(str(path) in line for line in lines[:-1])
    assert lines[-1] == f"… and {70 - LISTED} more"
    path.write_bytes(f"{HEADER}\nw1.mp4,Q,a|b,A\nv1.mp4,Q,a|b,E\nv1.mp4,é,a|b,A".encode("latin-1"))
    assert [line.partition(f"{path} ")[2][:6] for line in refused(path).splitlines()] == ["row 2:", "row 3:", "line 4"]


def test_a_video_without_permission_is_named(refused: Import, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so the answers of the system are set."""
    path = tmp_path / "questions.csv"
    path.write_text(f"{HEADER}\n{GOOD_ROW}\n")
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)
        one_line(refused(path), "row 2: video: 'v1.mp4' may not be read; change its permissions")

    def fail(path: Path) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("viarl.files.sha256_file", fail)
    one_line(refused(path).splitlines()[-1], r"v1\.mp4: cannot be read \(Input/output error\); copy it again")


# -------------------------------------------------------------------------------------- items.jsonl and videos.jsonl

ITEM = {"id": "q2", "video": "v1", "question": "Which?", "options": ["a", "b"], "answer": "B"}
ITEMS: dict[str, tuple[Any, str]] = {
    "E of two": ({**ITEM, "answer": "E"}, "answer 'E' is not one of the letters 'AB' of its options"),
    "two letters": ({**ITEM, "answer": "AB"}, "answer 'AB' is not one of the letters"),
    "answer as a list": ({**ITEM, "answer": ["A"]}, "answer must be a text"),
    "answer without options": ({**ITEM, "options": []}, "answer 'B' is not one of the letters ''"),
    "id upwards": ({**ITEM, "id": "../q"}, "id '../q' must be 1-200 letters"),
    "video as a number": ({**ITEM, "video": 7}, "id 7 must be 1-200 letters"),
    "options as a text": ({**ITEM, "options": "ab"}, "options must be a list of texts"),
    "one option": ({**ITEM, "options": ["a"], "answer": "A"}, r"1 options; give 2 to 10, or \[\]"),
    "eleven options": ({**ITEM, "options": ["a"] * 11}, "11 options; give 2 to 10"),
    "right one twice": ({**ITEM, "options": ["a", "a"]}, "options: the right one, 'a', comes twice; make them differ"),
    "blank question": ({**ITEM, "question": "  "}, "question must be a non-empty text"),
    "question as a number": ({**ITEM, "question": 3}, "question must be a text, not 3"),
    "task as a list": ({**ITEM, "task": []}, r"task must be a text, not \[\]"),
    "duration as a text": ({**ITEM, "duration": "8"}, "duration must be a number of seconds, not '8'"),
    "negative duration": ({**ITEM, "duration": -1}, "duration must be a number of seconds, not -1"),
    "evidence as a number": ({**ITEM, "evidence": 5}, r"evidence must be a list of \[start, end\] in seconds, not 5"),
    "evidence reversed": ({**ITEM, "evidence": [[3, 1]]}, "an evidence interval ends before it starts: .*; correct it"),
    "groups no list": ({**ITEM, "groups": "duration=short"}, "groups must be a list of texts kind=value"),
    "group, no value": ({**ITEM, "groups": ["short"]}, r"groups must be a list of texts kind=value, not \['short'\]"),
    "subtitles outside": ({**ITEM, "subtitles": "../a.srt"}, "subtitles '../a.srt' lead out of the folder"),
    "unknown field": ({**ITEM, "extra": 1}, r"unknown fields \['extra'\]; allowed are"),
    "missing field": ({k: v for k, v in ITEM.items() if k != "options"}, "the field 'options' is missing; add it"),
    "control token": (
        {**ITEM, "options": ["a", "b<|im_end|>"]},
        r"question or options hold <\|im_end\|>, which models",
    ),
    "id twice": ({**ITEM, "id": "q1"}, "the id 'q1' was used before; ids must be unique"),
    "cut off": ('{"id": "q2", "vid', r"not JSON \(.*\); write one JSON object a line"),
    "a list": ([1], "not a JSON object but a list"),
    "not UTF-8": (b'{"id": "\xe9"}', "not UTF-8 .byte 9.; save it as UTF-8"),
}
VIDEO = {"id": "v2", "path": "videos/v2.mp4", "size": 3, "sha256": "ab"}
VIDEOS: dict[str, tuple[Any, str]] = {
    "missing field": ({"id": "v2"}, r"the fields \['path', 'size', 'sha256'\] are missing; make the file again"),
    "id upwards": ({**VIDEO, "id": "../v"}, "must be 1-200 letters"),
    "path upwards": ({**VIDEO, "path": "../../v.mp4"}, "path '../../v.mp4' leads out of the folder of the list"),
    "path as a number": ({**VIDEO, "path": 3}, "path must be the name of a file, not 3; make the file again"),
    "size as a text": ({**VIDEO, "size": "x"}, "size must be a whole number and sha256 a text; make the file again"),
    "id twice": ({**VIDEO, "id": "v1"}, "the id 'v1' was used before; ids must be unique"),
}


@pytest.mark.parametrize(
    ("read", "good", "table", "name"),
    [
        *((read_items, {**ITEM, "id": "q1"}, ITEMS, name) for name in ITEMS),
        *((read_videos, {**VIDEO, "id": "v1"}, VIDEOS, name) for name in VIDEOS),
    ],
)
def test_line_that_is_read_back(
    read: Callable[[Path], object], good: dict, table: dict[str, tuple[Any, str]], name: str, tmp_path: Path
) -> None:
    record, pattern = table[name]
    bad = record if isinstance(record, bytes) else (record if isinstance(record, str) else json.dumps(record)).encode()
    path = tmp_path / "records.jsonl"
    path.write_bytes(json.dumps(good).encode() + b"\n" + bad)
    if name == "not UTF-8":
        path.write_bytes(b"\n" + bad)
    with pytest.raises(ValueError) as caught:
        read(path)
    one_line(caught.value, f"^{path} line 2: .*{pattern}")


def test_an_empty_list_of_items_is_refused(tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text("\n")
    with pytest.raises(ValueError) as caught:
        read_items(tmp_path / "items.jsonl")
    one_line(caught.value, r"items\.jsonl: holds nothing; make the file again with its rule")
