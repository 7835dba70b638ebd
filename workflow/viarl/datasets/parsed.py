"""What the public data sets share: reading their annotation files, and the account of what is kept and dropped.

A data set is a module of this package, named in viarl.datasets.hub.sets, with

    ANNOTATIONS   patterns of the annotation files in the repository of the questions
    ARCHIVES      patterns, in the repository of the videos, of archives (whole or in parts) or of video files
    parse         {path in the repository: local file} -> Parsed

A record that cannot be used is dropped and counted with the reason; a file without any is a ValueError.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow
import pyarrow.parquet

from viarl.faults import shown
from viarl.files import json_object, text_lines
from viarl.items import Item, control_token, in_one_form, item_of, safe_id

LISTED = 1000  # dropped and noted records that a card lists; the rest is counted
LONGEST_S = 1e6  # no video is longer
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")

MISSING = "field missing"
MALFORMED = "field malformed"
FEW_OPTIONS = "not 2 to 10 options"

Record = dict[str, Any]
Notes = list[tuple[str, str]]


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


@dataclass
class Parsed:
    """A data set as items, and the account of what is not kept; `notes`: what is odd about items that were kept.

    `members` holds by video id the archive member or repository file of the video, or the ending of its path (see
    `located`); `subtitles` likewise, where they may exist.
    """

    source: str
    by_id: dict[str, Item] = field(default_factory=dict)
    members: dict[str, str] = field(default_factory=dict)
    subtitles: dict[str, str] = field(default_factory=dict)
    dropped: list[Dropped] = field(default_factory=list)
    notes: list[Dropped] = field(default_factory=list)

    @property
    def items(self) -> list[Item]:
        """What is kept, in the order of the files."""
        return [*self.by_id.values()]

    @property
    def found(self) -> int:
        """How many questions the files hold."""
        return len(self.by_id) + len(self.dropped)

    def read(self, files: dict[str, Path]) -> Iterator[tuple[str, str, int, Record]]:
        """Yield (where it stands, file, number from 1, record) of `records`; what is no object is dropped."""
        for name, number, record in records(files):
            where = f"{name}:{number}"
            if isinstance(record, Unusable):
                self.drop(where, record)
            else:
                yield where, name, number, record

    def add(self, id: str, build: Callable[..., tuple[Item, str]], *given: Any) -> Item | None:
        """Keep the item that `build` makes, with its video's member, and return it; None if it was dropped.

        `id` names the question in the account. `build` takes what is `given`, and a list to which it adds (reason,
        detail) for what is odd about an item that is kept; it may raise Unusable. Items are checked as by `read_items`.
        """
        notes: Notes = []
        try:
            made, member = build(*given, notes)
            if mark := control_token(made.question, *made.options):
                raise Unusable("control token of a model in a text", mark)
            try:
                item = item_of(json.loads(json.dumps(asdict(replace(made, source=self.source)))), made.id)
            except ValueError as error:
                raise Unusable(MALFORMED, str(error)) from None
            if item.id in self.by_id:
                raise Unusable("id comes twice", f"the question was {shown(item.question)}")
        except Unusable as why:
            self.drop(id, why)
            return None
        if len(set(item.options)) < len(item.options):
            notes.append(("wrong options repeat", shown(list(item.options))))
        if not all(item.options):
            notes.append(("a wrong option is empty", shown(list(item.options))))
        self.notes += [Dropped(item.id, reason, detail) for reason, detail in notes]
        self.by_id[item.id] = item
        self.members[item.video] = member
        return item

    def drop(self, id: str, why: Unusable) -> None:
        """Count a question that cannot be used."""
        self.dropped.append(Dropped(id, why.reason, why.detail))

    def take_back(self, item: Item, id: str, why: Unusable) -> None:
        """Drop an item that was kept."""
        del self.by_id[item.id]
        self.notes = [note for note in self.notes if note.id != item.id]
        self.drop(id, why)

    def card(self) -> dict[str, Any]:
        """Return the account for results/data_card.json: found, kept, dropped and noted by reason, and which."""
        dropped, noted = (dict(sorted(Counter(x.reason for x in them).items())) for them in (self.dropped, self.notes))
        listed = [asdict(one) for one in (*self.dropped, *self.notes)[:LISTED]]
        return {"found": self.found, "kept": len(self.by_id), "dropped": dropped, "noted": noted, "listed": listed}


class Claims:
    """Tells which videos of `Parsed.members` a file may be.

    A member fits a name that is equal to it, in any Unicode form, or ends in "/" and it; failing that, one that differs
    in the suffix of a video file or in its case only (Video-MME holds .MP4 and .mkv beside .mp4).
    """

    def __init__(self, members: dict[str, str]) -> None:
        self._exact, self._loose = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
        for video, member in members.items():
            path = PurePosixPath(in_one_form(member))
            self._exact[str(path)].add(video)
            if path.suffix.lower() in VIDEO_SUFFIXES:
                self._loose[str(path.with_suffix(""))].add(video)

    def of(self, name: str) -> tuple[set[str], set[str]]:
        """Return the ids of the videos that a file of this name may be: by its very name, and by another suffix."""
        parts = PurePosixPath(in_one_form(name)).parts
        endings = [PurePosixPath(*parts[start:]) for start in range(len(parts))]
        films = [str(ending.with_suffix("")) for ending in endings if ending.suffix.lower() in VIDEO_SUFFIXES]
        exact = set[str]().union(*(self._exact.get(str(ending), ()) for ending in endings))
        return exact, set[str]().union(*(self._loose.get(film, ()) for film in films))


def located(members: dict[str, str], names: Iterable[str]) -> dict[str, str]:
    """Return, by video id, the shortest of the names that fits its member (`Claims`); none where none fits."""
    claims = Claims(members)
    exact: dict[str, str] = {}
    loose: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (len(name), name)):
        for found, videos in zip((exact, loose), claims.of(name), strict=True):
            found.update(dict.fromkeys(videos - found.keys(), name))
    return {video: fit for video in members if (fit := exact.get(video) or loose.get(video))}


def records(files: dict[str, Path]) -> Iterator[tuple[str, int, Record | Unusable]]:
    """Yield (file, number from 1, record or why it is none) of JSON, JSON lines and parquet; or else ValueError."""
    if not files:
        raise ValueError("no annotation file was given; download the data set's annotations first")
    readers = {".json": _json, ".jsonl": _json_lines, ".parquet": _parquet}
    for name, path in sorted(files.items()):
        if (suffix := PurePosixPath(name).suffix) not in readers:
            raise ValueError(f"{name}: annotation files end in {', '.join(readers)}; correct the patterns")
        found = readers[suffix](path)
        if not any(isinstance(record, dict) for record in found):
            raise _refused(path, "none of its records is an object")
        for number, record in enumerate(found, 1):
            usable = isinstance(record, dict)
            yield name, number, record if usable else Unusable("record is no JSON object", shown(record))


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
    def record_of(line: str) -> Any:
        try:
            return json_object(line)
        except ValueError:
            return line.strip()

    return [record_of(line) for _, line in text_lines(path) if line.strip()]


def _parquet(path: Path) -> list[Any]:
    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, ValueError, OSError) as error:
        raise _refused(path, f"no valid parquet: {error}") from error


def text(record: Record, name: str, empty: bool = False) -> str:
    """Return a field that must be a text, without white space around it; Unusable otherwise, or if it is empty."""
    if (value := record.get(name)) is None:
        raise Unusable(MISSING, name)
    if not isinstance(value, str) or not (empty or value.strip()):
        raise Unusable(MALFORMED, f"{name}: {shown(value)} is no text")
    if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise Unusable(MALFORMED, f"{name}: {shown(value)} holds a character that is none")
    return value.strip()


def texts(record: Record, name: str) -> list[str]:
    """Return a field that must be a list of texts, without white space around them; Unusable otherwise."""
    if (value := record.get(name)) is None:
        raise Unusable(MISSING, name)
    if not isinstance(value, list):
        raise Unusable(MALFORMED, f"{name}: {shown(value)} is no list of texts")
    return [text({name: one}, name, empty=True) for one in value]


def label(record: Record, name: str) -> str:
    """Return a field that names a category, on one line; Unusable where it is no text."""
    return " ".join(re.sub(r"[\x00-\x1f]+", " ", text(record, name)).split())


def seconds(record: Record, name: str, notes: Notes, unit: float = 1) -> float:
    """Return a field that holds a length of time in units of `unit` seconds; 0 with a note where it does not."""
    value: Any = record.get(name)
    if isinstance(value, str) and re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value.strip()):
        value = float(value)
    if type(value) not in (int, float) or not 0 < value * unit < LONGEST_S:
        notes.append(("duration unknown", f"{name}: {shown(value)}"))
        return 0.0
    return float(value * unit)


def name_of(value: Any, otherwise: str) -> str:
    """Return how the account calls a question: a field's value if it is a name, or else where the question stands."""
    return value if isinstance(value, str) and value.isascii() and value and safe_id(value) == value else otherwise


def file_name(record: Record, name: str) -> str:
    """Return a field that names a file below a folder, "/" between its parts; Unusable where it leads elsewhere."""
    value = text(record, name)
    parts = PurePosixPath(value).parts
    if not parts or value.startswith("/") or ".." in parts or re.search(r"[\\\x00-\x1f]", value):
        raise Unusable(MALFORMED, f"{name}: {shown(value)} is no name of a file below the set's folder")
    return "/".join(parts)
