"""What the public data sets share: reading their annotation files, and the account of what is kept and dropped.

A data set is a module of this package with

    REPOSITORIES  (role, hub id): which repository holds the "questions" and which the "videos" (one may hold both)
    ANNOTATIONS   patterns of the annotation files in the repository of the questions
    ARCHIVES      patterns, in the repository of the videos, of archives (whole or in parts) or of video files
    parse         {path in the repository: local file} -> Parsed

A record that cannot be used is dropped and counted with the reason, whatever is wrong with it; a file that cannot be
read at all is a ValueError, as is a set of which nothing is left.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow
import pyarrow.parquet

from viarl.faults import shown
from viarl.files import json_object, text_lines
from viarl.items import LETTERS, Item, item_of

LISTED = 1000  # dropped and noted records that a card lists; the rest is counted
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")

MISSING = "field missing"
MALFORMED = "field malformed"
NO_JSON = "record is no JSON object"
NOT_AMONG = "answer not among the options"
NO_ANSWER = "answer is no option's letter"
TWICE = "right option comes twice"
FEW_OPTIONS = "no options"
GENERATION = "generation task"
OPEN_ENDED = "open-ended question"
SAME_ID = "id comes twice"
CONTRADICTION = "letter and text of the answer differ"
REPEATED = "wrong options repeat"  # a note: the item is kept

Record = dict[str, Any]


class Unusable(Exception):
    """Why a record cannot be an item: a reason to count by, and the detail."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Dropped:
    """A record that was dropped, or kept with a note: its id, the reason it is counted by, and the detail."""

    id: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Parsed:
    """A data set as items.

    Attributes:
        items: in the order of the files; ids are unique.
        members: by video id, the archive member or repository file that holds the video, or the ending of its path;
            see `located`.
        subtitles: by video id, likewise, the subtitles that may exist.
        found: questions in the files; found = kept + dropped.
        dropped: what was dropped.
        notes: what is odd about items that were kept.
    """

    items: list[Item]
    members: dict[str, str]
    subtitles: dict[str, str]
    found: int
    dropped: tuple[Dropped, ...] = ()
    notes: tuple[Dropped, ...] = ()

    def card(self) -> dict[str, Any]:
        """Return the account for results/data_card.json: found, kept, dropped and noted by reason, and which."""
        return {
            "found": self.found,
            "kept": len(self.items),
            "dropped": dict(sorted(Counter(one.reason for one in self.dropped).items())),
            "noted": dict(sorted(Counter(one.reason for one in self.notes).items())),
            "listed": [asdict(one) for one in (*self.dropped, *self.notes)[:LISTED]],
        }


def located(members: dict[str, str], names: Iterable[str]) -> dict[str, str]:
    """Return, by video id, the name among `names` that a member of `Parsed.members` stands for; none where none fits.

    A member fits a name that is equal to it or ends in "/" and it; failing that, one that differs in the suffix of a
    video file or in its case only (Video-MME holds .MP4 and .mkv beside .mp4). The shortest name that fits counts.
    """
    exact: dict[str, str] = {}
    loose: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (len(name), name), reverse=True):
        parts = PurePosixPath(name).parts
        for start in range(len(parts)):
            ending = "/".join(parts[start:])
            exact[ending] = name
            if PurePosixPath(ending).suffix.lower() in VIDEO_SUFFIXES:
                loose[str(PurePosixPath(ending).with_suffix(""))] = name
    found = {}
    for video, member in members.items():
        path = PurePosixPath(member)
        stem = str(path.with_suffix("")) if path.suffix.lower() in VIDEO_SUFFIXES else ""
        if fitting := exact.get(str(path)) or loose.get(stem):
            found[video] = fitting
    return found


def records(files: dict[str, Path]) -> Iterator[tuple[str, str, Record | Unusable]]:
    """Yield (file in the repository, number from 1, record) of JSON, JSON lines and parquet files, by path.

    A record that is no object comes as the reason to drop it. Errors: ValueError naming file and remedy for a file that
    is none of the three or holds no record at all.
    """
    if not files:
        raise ValueError("no annotation file was given; download the data set's annotations first")
    readers = {".json": _json, ".jsonl": _json_lines, ".parquet": _parquet}
    for name, path in sorted(files.items()):
        if (suffix := PurePosixPath(name).suffix) not in readers:
            raise ValueError(f"{name}: annotation files end in {', '.join(readers)}; correct the patterns")
        for number, record in enumerate(readers[suffix](path), 1):
            if not isinstance(record, dict):
                record = Unusable(NO_JSON, shown(record))
            yield name, str(number), record


def _refused(path: Path, why: object) -> ValueError:
    return ValueError(f"{path}: holds no annotations ({why}); delete it so that it is downloaded again")


def _json(path: Path) -> list[Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise _refused(path, f"no valid JSON: {error}") from error
    if not isinstance(value, list):
        raise _refused(path, f"not a list of records but {shown(value)}")
    return value


def _json_lines(path: Path) -> list[Any]:
    found: list[Any] = []
    for _, line in text_lines(path):
        if line.strip():
            try:
                found.append(json_object(line))
            except ValueError:
                found.append(line.strip())
    if not any(isinstance(record, dict) for record in found):
        raise _refused(path, "no line is a JSON object")
    return found


def _parquet(path: Path) -> list[Any]:
    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, ValueError, OSError) as error:
        raise _refused(path, f"no valid parquet: {error}") from error


@dataclass
class Collector:
    """Items as they are found, and the account of what is not kept."""

    source: str
    items: dict[str, Item] = field(default_factory=dict)
    members: dict[str, str] = field(default_factory=dict)
    subtitles: dict[str, str] = field(default_factory=dict)
    found: int = 0
    dropped: list[Dropped] = field(default_factory=list)
    notes: list[Dropped] = field(default_factory=list)

    def add(self, id: str, build: Callable[[], tuple[Item, str]]) -> Item | None:
        """Count a question and keep the item that `build` makes, with its video's member; return it if it was kept.

        `id` names the question in the account. `build` may raise Unusable. Items are checked as `read_items` will.
        """
        self.found += 1
        try:
            item, member = build()
            try:
                item = item_of(json.loads(json.dumps(asdict(item))), item.id)
            except ValueError as error:
                raise Unusable(MALFORMED, str(error)) from None
            if item.id in self.items:
                raise Unusable(SAME_ID, f"the question was {shown(item.question)}")
        except Unusable as why:
            self.dropped.append(Dropped(id, why.reason, why.detail))
            return None
        if len(set(item.options)) < len(item.options):
            self.note(item.id, REPEATED, shown(list(item.options)))
        self.items[item.id] = item
        self.members[item.video] = member
        return item

    def drop(self, id: str, why: Unusable) -> None:
        """Count a question that cannot be used."""
        self.found += 1
        self.dropped.append(Dropped(id, why.reason, why.detail))

    def note(self, id: str, reason: str, detail: str = "") -> None:
        """Count what is odd about a kept item."""
        self.notes.append(Dropped(id, reason, detail))

    def parsed(self) -> Parsed:
        """Return what was collected."""
        return Parsed(
            [*self.items.values()], self.members, self.subtitles, self.found, tuple(self.dropped), tuple(self.notes)
        )


def text(record: Record, name: str) -> str:
    """Return a field that must be a non-empty text, without white space around it; Unusable otherwise."""
    value = record.get(name)
    if value is None:
        raise Unusable(MISSING, name)
    if not isinstance(value, str) or not value.strip():
        raise Unusable(MALFORMED, f"{name}: {shown(value)} is no text")
    if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise Unusable(MALFORMED, f"{name}: {shown(value)} holds a character that is none")
    return value.strip()


def texts(record: Record, name: str) -> list[str]:
    """Return a field that must be a list of non-empty texts, without white space around them; Unusable otherwise."""
    value = record.get(name)
    if value is None:
        raise Unusable(MISSING, name)
    if not isinstance(value, list):
        raise Unusable(MALFORMED, f"{name}: {shown(value)} is no list of texts")
    return [text({name: one}, name) for one in value]


def label(record: Record, name: str) -> str:
    """Return a field that names a category, on one line; Unusable where it is no text."""
    return " ".join(re.sub(r"[\x00-\x1f]+", " ", text(record, name)).split())


def file_name(record: Record, name: str) -> str:
    """Return a field that names a file below a folder, "/" between its parts; Unusable where it leads elsewhere."""
    value = text(record, name)
    parts = PurePosixPath(value).parts
    if value.startswith("/") or ".." in parts or "\\" in value or any(ord(letter) < 32 for letter in value):
        raise Unusable(MALFORMED, f"{name}: {shown(value)} is no name of a file below the set's folder")
    return "/".join(parts)


def without_prefixes(options: Sequence[str]) -> tuple[str, ...]:
    """Remove "A. ", "(A) ", "A) " or "A: " where most options begin with their own letter, else leave them."""
    found = [
        re.fullmatch(rf"(?:\({letter}\)|{letter}[.:)])\s*(.*)", option, re.DOTALL)
        for letter, option in zip(LETTERS, options, strict=False)
    ]
    if 2 * sum(match is not None for match in found) <= len(options):
        return tuple(options)
    return tuple(match[1] if match else option for match, option in zip(found, options, strict=False))


def options_of(record: Record, name: str) -> tuple[str, ...]:
    """Return a field that lists the options, as texts without their letters; Unusable where it is no such list."""
    return checked(without_prefixes(texts(record, name)))


def checked(options: Sequence[str]) -> tuple[str, ...]:
    """Return the options if they are 2 to 10 non-empty texts; Unusable otherwise."""
    if not 2 <= len(options) <= len(LETTERS):
        raise Unusable(FEW_OPTIONS, f"{len(options)} options; an item has 2 to {len(LETTERS)}")
    if not all(options):
        raise Unusable(MALFORMED, f"an option is empty: {shown(list(options))}")
    return tuple(options)


def letter_of(answer: str, options: Sequence[str]) -> str:
    """Return the right option's letter from "A", "A.", "(A)", "A. its text" or its text; Unusable otherwise.

    Texts are compared without white space and full stops around them. A letter followed by the text of another option
    contradicts itself and is no answer.
    """
    bare = [_bare(option) for option in options]
    text = _bare(answer)
    if text in bare:
        return _only(text, bare)
    match = re.match(r"(?:\(([A-J])\)|([A-J])(?=[.:)]|$))[.:)]?\s*", answer)
    if not match:
        raise Unusable(NOT_AMONG if len(answer) > 1 else NO_ANSWER, f"{shown(answer)}; options: {shown(list(options))}")
    place = LETTERS.index(match[1] or match[2])
    rest = _bare(answer[match.end() :])
    if place >= len(options):
        raise Unusable(NOT_AMONG, f"{shown(answer)} of {len(options)} options")
    if rest and rest != bare[place] and rest in bare:
        raise Unusable(CONTRADICTION, f"{shown(answer)}; options: {shown(list(options))}")
    if bare.count(bare[place]) > 1:
        raise Unusable(TWICE, f"{shown(options[place])}; options: {shown(list(options))}")
    return LETTERS[place]


def _bare(text: str) -> str:
    return " ".join(text.split()).rstrip(". ")


def _only(text: str, bare: Sequence[str]) -> str:
    if bare.count(text) > 1:
        raise Unusable(TWICE, f"{shown(text)}; options: {shown(list(bare))}")
    return LETTERS[bare.index(text)]


def split_question(text: str) -> tuple[str, tuple[str, ...]]:
    """Return question and options of a text that holds both: a line an option, "A. …", "(A) …", "A) …" or "A: …".

    The options are the last lines that begin with A, B, C … in order; a line between two of them goes on with the
    option before it. Unusable where there are no options or no question.
    """
    lines = [line.strip() for line in text.splitlines()]
    found = [re.fullmatch(r"(?:\(([A-J])\)|([A-J])[.:)])\s*(.*)", line) for line in lines]
    letters = [(match[1] or match[2]) if match else "" for match in found]
    if "A" not in letters:
        raise Unusable(FEW_OPTIONS, f"no line begins with A in {shown(text)}")
    first = len(letters) - 1 - letters[::-1].index("A")
    options: list[str] = []
    for line, letter, match in zip(lines[first:], letters[first:], found[first:], strict=True):
        if match and len(options) < len(LETTERS) and letter == LETTERS[len(options)]:
            options.append(match[3])
        else:
            options[-1] = f"{options[-1]} {line}".strip()
    question = "\n".join(lines[:first]).strip()
    if not question:
        raise Unusable(MISSING, f"the question before the options of {shown(text)}")
    return question, checked(options)
