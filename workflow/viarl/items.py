"""Questions and videos as JSON lines: the one schema that every data set is turned into."""

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from viarl.faults import listed, shown
from viarl.files import atomic_path, json_object, text_lines

T = TypeVar("T")

LETTERS = "ABCDEFGHIJ"
ENDING = "\n"  # an empty line, so that a file that was cut between two records is told from a whole one
_GROUP = re.compile(r"[a-z_]+=[^\x00-\x1f]+")
# Qwen's tokenizers take these for commands wherever they stand; <think> and <tool_call> in a question are only words.
_CONTROL = re.compile(
    r"<\|(?:endoftext|im_(?:start|end)|(?:object_ref|box|quad|vision)_(?:start|end)|(?:vision|image|video|fim)_pad"
    r"|fim_(?:prefix|middle|suffix)|repo_name|file_sep)\|>"
)
_SAFE_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")


@dataclass(frozen=True)
class Video:
    """A source video. `path` is absolute or relative to the folder of the videos.jsonl that lists it.

    A video that its source does not have is listed without a `sha256`.
    """

    id: str
    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Item:
    """A multiple-choice question on a video.

    `answer` is an option's letter, or "" where the truth is unknown. `evidence` lists [start, end] in seconds;
    empty where unknown. `task` is the benchmark's own category. `groups` are further labels that a benchmark reports
    by, "kind=value" ("duration=short"); a kind may come several times. `subtitles` names the video's .srt file,
    relative to the folder of the items.jsonl; "" where there is none or it is not to be shown.
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
    groups: tuple[str, ...] = ()
    subtitles: str = ""


def check_id(value: Any, where: str) -> str:
    """Return `value` if it can name a file; ValueError otherwise (ids become file names in the caches)."""
    if not isinstance(value, str) or not _SAFE_ID.fullmatch(value):
        raise ValueError(f"{where}: id {shown(value)} must be 1-200 letters, digits, '.', '_' or '-'; rename it")
    return value


def safe_id(text: str) -> str:
    """Return a name for files and items: the text itself if it may be one, else a likeness with a hash of the text."""
    likeness = re.sub(r"[^A-Za-z0-9_.-]+", "_", text)[:150]
    if likeness == text and text[0] not in ".-":
        return text
    return f"{likeness.strip('._-') or 'unnamed'}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def in_one_form(text: str) -> str:
    """Return a text as it compares with others: composed (NFC; Macs decompose), every kind of space a plain one."""
    return re.sub(r"\s", " ", unicodedata.normalize("NFC", text))


def control_token(*texts: str) -> str:
    """Return the first control token of a model in texts for its prompt, "" if there is none."""
    found = _CONTROL.search("\n".join(texts))
    return found[0] if found else ""


def without_control_tokens(text: str) -> str:
    """Return a text with a space in place of every control token, so that what is left makes no new one."""
    return _CONTROL.sub(" ", text)


def shard_of(video: str, shards: int) -> int:
    """Return the shard, 0 .. shards - 1, that a video belongs to.

    It depends on the id alone: a video that comes or goes moves no other one, and a part of a set has the same shards.
    """
    return int.from_bytes(hashlib.sha256(video.encode()).digest()[:8], "big") % shards


def item_of(record: dict[str, Any], where: str) -> Item:
    """Build and check an item from a JSON object; ValueError names `where`, the field and the remedy."""
    known = [field.name for field in fields(Item)]
    if unknown := [name for name in record if name not in known]:
        raise ValueError(f"{where}: unknown fields {shown(unknown)}; allowed are {known}")
    for key in ("id", "video", "question", "options", "answer"):
        if key not in record:
            raise ValueError(f"{where}: the field {key!r} is missing; add it")
    check_id(record["id"], where)
    check_id(record["video"], where)
    for key in ("question", "answer", "task", "source", "subtitles"):
        if not isinstance(record.get(key, ""), str):
            raise ValueError(f"{where}: {key} must be a text, not {shown(record[key])}")
    if not record["question"].strip():
        raise ValueError(f"{where}: question must be a non-empty text")
    options, answer = record["options"], record["answer"]
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise ValueError(f"{where}: options must be a list of texts, not {shown(options)}")
    if len(options) == 1 or len(options) > len(LETTERS):
        raise ValueError(f"{where}: {len(options)} options; give 2 to {len(LETTERS)}, or [] for an open question")
    if mark := control_token(record["question"], *options):
        raise ValueError(
            f"{where}: question or options hold {mark}, which models take for a command; write it otherwise"
        )
    letters = LETTERS[: len(options)]
    if answer and answer not in [*letters]:
        raise ValueError(f"{where}: answer {shown(answer)} is not one of the letters {letters!r} of its options")
    if answer and options.count(right := options[letters.index(answer)]) > 1:
        raise ValueError(f"{where}: options: the right one, {shown(right)}, comes twice; make them different")
    duration = record.get("duration", 0.0)
    if type(duration) not in (int, float) or not 0 <= duration < float("inf"):
        raise ValueError(f"{where}: duration must be a number of seconds, not {shown(duration)}")
    try:
        evidence = tuple((float(start), float(end)) for start, end in record.get("evidence", ()))
    except (TypeError, ValueError):
        spans = shown(record["evidence"])
        raise ValueError(f"{where}: evidence must be a list of [start, end] in seconds, not {spans}") from None
    if any(not start <= end for start, end in evidence):
        raise ValueError(f"{where}: an evidence interval ends before it starts: {shown(evidence)}; correct it")
    groups = record.get("groups", [])
    if not isinstance(groups, list) or not all(isinstance(group, str) and _GROUP.fullmatch(group) for group in groups):
        raise ValueError(f"{where}: groups must be a list of texts kind=value, not {shown(groups)}; correct it")
    if (subtitles := Path(record.get("subtitles", ""))).is_absolute() or ".." in subtitles.parts:
        raise ValueError(f"{where}: subtitles {shown(record['subtitles'])} lead out of the folder; correct it")
    return Item(**{**record, "options": tuple(options), "evidence": evidence, "groups": tuple(groups)})


def _video(record: dict[str, Any], where: str, folder: Path) -> Video:
    remedy = "make the file again with its rule"
    if missing := [field.name for field in fields(Video) if field.name not in record]:
        raise ValueError(f"{where}: the fields {missing} are missing; {remedy}")
    check_id(record["id"], where)
    path, size, sha256 = record["path"], record["size"], record["sha256"]
    if not isinstance(path, str) or not path or "\0" in path:
        raise ValueError(f"{where}: path must be the name of a file, not {shown(path)}; {remedy}")
    if not os.path.isabs(path) and ".." in Path(path).parts:
        raise ValueError(f"{where}: path {shown(path)} leads out of the folder of the list; {remedy}")
    if type(size) is not int or size < 0 or not isinstance(sha256, str):
        raise ValueError(f"{where}: size must be a whole number and sha256 a text; {remedy}")
    return Video(record["id"], os.path.abspath(folder / path), size, sha256)


def _read(path: Path, build: Callable[[dict[str, Any], str], T]) -> list[T]:
    """Build a record from every line; ValueError lists what is wrong with all of them, and ids that come twice."""
    records: dict[str, T] = {}
    faults: list[str] = []
    ended = False
    try:
        for number, line in text_lines(path):
            ended = line == ENDING
            if not ended:
                where = f"{path} line {number}"
                remedy = f"; or, if a rule made this file, delete {path} so that it is made again"
                fields_ = None
                try:
                    fields_ = json_object(line)
                    record = build(fields_, where)
                except ValueError as error:
                    faults.append(f"{where}: {error}{remedy}" if fields_ is None else str(error))
                    continue
                if fields_["id"] in records:
                    faults.append(f"{where}: the id {fields_['id']!r} was used before; ids must be unique")
                records[fields_["id"]] = record
    except ValueError as error:  # nothing behind that place can be read
        faults.append(str(error))
    if not ended and not faults:
        faults.append(
            f"{path}: the empty line that ends the file is missing, so its last records may be missing too; if a rule "
            "made this file, delete it so that it is made again; if you wrote it, add the line"
        )
    if not records and not faults:
        faults.append(f"{path}: holds nothing; make the file again with its rule")
    if faults:
        raise ValueError(listed(faults))
    return list(records.values())


def read_items(path: Path) -> list[Item]:
    """Read and check an items.jsonl; ValueError names file, line and remedy of everything that is wrong."""
    return _read(path, item_of)


def read_videos(path: Path) -> dict[str, Video]:
    """Read a videos.jsonl into {id: Video}, paths made absolute; ValueError names file, line and remedy."""
    return {video.id: video for video in _read(path, lambda record, where: _video(record, where, path.parent))}


def write_records(path: Path, records: Iterable[Item | Video]) -> None:
    """Write items or videos as JSON lines and an empty line, atomically."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as handle:
        for record in records:
            handle.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")
        handle.write(ENDING)
