"""Questions and videos as JSON lines: the one schema that every data set is turned into."""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from viarl.files import atomic_path

LETTERS = "ABCDEFGHIJ"
ENDING = "\n"  # an empty line, so that a file that was cut between two records is told from a whole one
_SAFE_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")


@dataclass(frozen=True)
class Video:
    """A source video. `path` is absolute or relative to the folder of the videos.jsonl that lists it."""

    id: str
    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Item:
    """A multiple-choice question on a video.

    `answer` is an option's letter, or "" where the truth is unknown. `evidence` lists [start, end] in seconds;
    empty where unknown. `task` is the benchmark's own category.
    """

    id: str
    video: str
    question: str
    options: tuple[str, ...]
    answer: str
    task: str = ""
    duration: float = 0.0
    evidence: tuple[tuple[float, float], ...] = ()
    source: str = ""


def check_id(value: Any, where: str) -> str:
    """Return `value` if it can name a file; ValueError otherwise (ids become file names in the caches)."""
    if not isinstance(value, str) or not _SAFE_ID.fullmatch(value):
        raise ValueError(f"{where}: id {value!r} must be 1-200 letters, digits, '.', '_' or '-'; rename it")
    return value


def _item(record: dict[str, Any], where: str) -> Item:
    known = {field.name for field in fields(Item)}
    if unknown := set(record) - known:
        raise ValueError(f"{where}: unknown fields {sorted(unknown)}; allowed are {sorted(known)}")
    for key in ("id", "video", "question", "options", "answer"):
        if key not in record:
            raise ValueError(f"{where}: the field {key!r} is missing; add it")
    check_id(record["id"], where)
    check_id(record["video"], where)
    options = record["options"]
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise ValueError(f"{where}: options must be a list of texts, not {options!r}")
    if len(options) > len(LETTERS):
        raise ValueError(f"{where}: {len(options)} options; at most {len(LETTERS)} are supported")
    if record["answer"] and record["answer"] not in LETTERS[: len(options)]:
        raise ValueError(
            f"{where}: answer {record['answer']!r} is not one of the letters {LETTERS[: len(options)]!r} of its options"
        )
    if not isinstance(record["question"], str) or not record["question"].strip():
        raise ValueError(f"{where}: question must be a non-empty text")
    evidence = tuple((float(start), float(end)) for start, end in record.get("evidence", ()))
    if any(end < start for start, end in evidence):
        raise ValueError(f"{where}: an evidence interval ends before it starts: {evidence}")
    return Item(**{**record, "options": tuple(options), "evidence": evidence})


def _lines(path: Path) -> Iterable[tuple[str, dict[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error}); save it as UTF-8") from error
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{path} line {number}"
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"{where}: not JSON ({error.msg}); one JSON object a line is expected. Repair the line, or, if a "
                    f"rule made this file, delete {path} so that it is made again"
                ) from error
            if not isinstance(record, dict):
                raise ValueError(f"{where}: expected a JSON object, found {type(record).__name__}")
            yield where, record
    if text != ENDING and not text.endswith("\n" + ENDING):
        raise ValueError(
            f"{path}: the empty line that ends the file is missing, so its last records may be missing too. If a rule "
            f"made this file, delete {path} so that it is made again; if you wrote it, add the line"
        )


def read_items(path: Path) -> list[Item]:
    """Read and check an items.jsonl; ValueError names file, line and remedy (also for duplicate ids)."""
    items: dict[str, Item] = {}
    for where, record in _lines(path):
        item = _item(record, where)
        if item.id in items:
            raise ValueError(f"{where}: the id {item.id!r} was used before; ids must be unique")
        items[item.id] = item
    return list(items.values())


def read_videos(path: Path) -> dict[str, Video]:
    """Read a videos.jsonl into {id: Video}, paths made absolute; ValueError names file, line and remedy."""
    videos: dict[str, Video] = {}
    for where, record in _lines(path):
        if missing := {field.name for field in fields(Video)} - set(record):
            raise ValueError(f"{where}: the fields {sorted(missing)} are missing; make the file again with its rule")
        check_id(record["id"], where)
        if record["id"] in videos:
            raise ValueError(f"{where}: the video id {record['id']!r} was used before; ids must be unique")
        absolute = str((path.parent / record["path"]).resolve())
        videos[record["id"]] = Video(record["id"], absolute, int(record["size"]), record["sha256"])
    return videos


def write_records(path: Path, records: Iterable[Item | Video]) -> None:
    """Write items or videos as JSON lines and an empty line, atomically."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as handle:
        for record in records:
            handle.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")
        handle.write(ENDING)
