"""The user's own videos: a folder of video files and one file of questions: CSV, JSON lines or a JSON list.

Columns (CSV, with a header) or fields (JSON):

    video     file name relative to the folder                                      required
    question  the question, without its options                                     required
    options   JSON: a list; CSV: separated by "|", or as in JSON: ["a|b", "c"]      for training and evaluation
    answer    the letter of the right option, or its text                           for training
    id        a name of the question; made from video and row where it is missing
    task      a category; accuracies are also given by task
    evidence  JSON: [[start, end], …]; CSV: "12-14.5; 20-22", seconds
"""

import csv
import hashlib
import io
import json
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from viarl.faults import listed, shown
from viarl.files import json_records, sha256_file, sha256_json, state, text_lines
from viarl.items import LETTERS, Item, Video, control_token, in_one_form, safe_id
from viarl.progress import Progress

FORM = "Unicode form"
FIELDS = ("video", "question", "options", "answer", "id", "task", "evidence")

Row = tuple[str, dict[str, Any]]  # where it stands in the file, and its fields


class _Fault(Exception):
    """What is wrong with one row: the field, then the reason and the remedy."""


def import_questions(
    folder: Path, questions: Path, labelled: bool, sha256: Callable[[Path], str] = sha256_file
) -> tuple[list[Item], list[Video]]:
    """Read the questions on the videos of a folder, as `read_questions`; the videos are those that are asked about.

    `sha256` returns a file's hash; it may know that of a file that it has read before.
    """
    items, files = read_questions(folder, questions, labelled)
    faults, videos = [], []
    progress = Progress("videos", len(files))
    for video, path in files.items():
        try:
            videos.append(Video(video, str(path), path.stat().st_size, sha256(path)))
        except OSError as error:
            faults.append(f"{path}: cannot be read ({error.strerror}); copy it again or remove its questions")
        progress.advance()
    if faults:
        raise ValueError(listed(faults))
    return items, videos


def read_questions(folder: Path, questions: Path, labelled: bool) -> tuple[list[Item], dict[str, Path]]:
    """Return the questions on the videos of a folder, which no path may leave, and the files of these videos by id.

    The file is .csv, .tsv, .jsonl or .json. With `labelled` every question must have options and an answer.
    Errors: ValueError listing every fault of the file; FileNotFoundError for a missing folder or file.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"local.folder {folder} is not a folder; give the folder of the video files")
    if not questions.is_file():
        raise FileNotFoundError(f"local.questions {questions} is not a file; give a CSV or JSONL file of questions")
    faults: list[str] = []
    items: dict[str, Item] = {}
    files: dict[str, Path] = {}  # by video id
    alike: dict[str, str] = {}  # the ids, by what disks that do not tell upper from lower case make of them
    home = folder.resolve()
    try:
        for where, fields in _rows(questions, faults):
            try:
                path = _video_path(home, fields)
                video = safe_id(str(path.relative_to(home)))
                other = alike.setdefault(unicodedata.normalize("NFC", video).casefold(), video)
                if other != video or files.setdefault(video, path) != path:
                    both = f"{shown(path.name)} differs from {shown(other)}"
                    raise _Fault(f"video: {both} in case only; rename one of them")
                item = _item(where.rpartition(" ")[2], fields, video, labelled)
                if item.id in items:
                    raise _Fault(f"id: {item.id!r} names an earlier question too; give each its own, or leave ids out")
                items[item.id] = item
            except _Fault as fault:
                faults.append(f"{where}: {fault}")
    except ValueError as error:  # nothing behind that place can be read
        faults.append(str(error))
    if not items and not faults:
        faults.append(f"{questions}: holds no questions; add one a row")
    if faults:
        raise ValueError(listed(faults))
    return list(items.values()), files


def sources_state(questions: Path, files: Mapping[str, Path]) -> str:
    """Return a hash of the content of the questions and of the state of the videos, which are not read for it.

    `files` are those that `read_questions` returned. A file that is replaced changes it, be the new one older.
    """
    return sha256_json([sha256_file(questions), {video: state(path) for video, path in files.items()}])


def split_videos(videos: Sequence[Video], validation_share: float, seed: int) -> tuple[set[str], set[str]]:
    """Return the ids of the training and of the validation videos.

    Videos of equal content count as one, so that none is on both sides under two names. The split depends on the seed
    and the contents only. A share above 0 gives each side at least one video.
    Errors: ValueError if there are not enough different videos, or the share is not in [0, 1).
    """
    if not 0 <= validation_share < 1:
        raise ValueError(f"local.validation_share {validation_share} must be at least 0 and below 1")
    different = {video.sha256 for video in videos}
    contents = sorted(different, key=lambda one: hashlib.sha256(f"{seed} {one}".encode()).digest())
    if validation_share > 0 and len(contents) < 2:
        remedy = "add videos, or set local.validation_share to 0"
        raise ValueError(f"{len(contents)} different video cannot be split; {remedy}")
    count = min(max(round(validation_share * len(contents)), 1), len(contents) - 1) if validation_share > 0 else 0
    held_out = set(contents[:count])
    validation = {video.id for video in videos if video.sha256 in held_out}
    return {video.id for video in videos} - validation, validation


def _rows(path: Path, faults: list[str]) -> Iterator[Row]:
    readers = {".csv": _csv_rows, ".tsv": _csv_rows, ".jsonl": _json_rows, ".json": _json_rows}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path}: the name must end in {', '.join(readers)}; rename it after its content")
    yield from readers[path.suffix.lower()](path, faults)


def _csv_rows(path: Path, faults: list[str]) -> Iterator[Row]:
    separator, name = ("\t", "tabs") if path.suffix.lower() == ".tsv" else (",", "commas")
    # within a line of the file, line ends of old Macintoshes count too
    lines = (piece for _, line in text_lines(path) for piece in io.StringIO(line, newline=""))
    reader = csv.DictReader(lines, delimiter=separator, strict=True)
    try:
        columns = [column.strip() for column in reader.fieldnames or []]
        reader.fieldnames = columns
        if not any(columns):
            raise ValueError(f"{path}: empty; the first row names the columns: {', '.join(FIELDS)}")
        if fault := _fault_of(columns, f"; columns are separated by {name}"):
            raise ValueError(f"{path} row 1: {fault}")
        for record in reader:
            where = f"{path} row {reader.line_num}"
            if None in record or None in record.values():
                count = f"{len(columns)} columns"
                faults.append(f"{where}: not the {count} of the header; put texts that hold {name} in quotes")
            elif any(value.strip() for value in record.values()):
                yield where, {key: value.strip() for key, value in record.items()}
    except csv.Error as error:
        faults.append(f"{path} row {reader.line_num}: no valid CSV ({error}); check its quotes")


def _json_rows(path: Path, faults: list[str]) -> Iterator[Row]:
    none: list[str] = []  # rows before the first object; where there is none, the file is of another kind
    found = False
    for number, record in json_records(path):
        where = f"{path} row {number}"
        if isinstance(record, ValueError):
            (faults if found else none).append(f"{where}: {record}")
            continue
        if not found:
            faults += none
        found = True
        if fault := _fault_of([*record]):
            faults.append(f"{where}: {fault}")
        else:
            yield where, record
    if none and not found:
        others = f"; the {len(none) - 1} rows behind it are none either" if len(none) > 1 else ""
        faults.append(f"{none[0]}, or all of them in one list: [{{…}}, {{…}}]{others}")


def _fault_of(columns: Sequence[str], hint: str = "") -> str:
    if unknown := [name for name in columns if name not in FIELDS]:
        return f"unknown fields {shown(unknown)}; known are {list(FIELDS)}{hint}"
    if missing := [name for name in ("video", "question") if name not in columns]:
        return f"{missing[0]}: the field is missing; add it{hint}"
    twice = [name for name in FIELDS if columns.count(name) > 1]
    return f"{twice[0]}: the field comes twice; remove one" if twice else ""


def _text(fields: dict[str, Any], name: str) -> str:
    if (value := fields.get(name)) is None:
        return ""
    if not isinstance(value, str):
        raise _Fault(f"{name}: {shown(value)} is no text; put it in quotes")
    if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise _Fault(f"{name}: holds a character that is none (a zero byte, half a surrogate pair); remove it")
    return value.strip()


def _video_path(home: Path, fields: dict[str, Any]) -> Path:
    """Return the file of a row's video, links followed; `home` is the folder of the videos, links followed."""
    if not (name := _text(fields, "video")):
        raise _Fault("video: empty; give the file's name")
    called = shown(name)
    if any(unicodedata.category(letter) == "Cc" for letter in name):
        raise _Fault(f"video: {called} holds a control character; rename the file")
    try:
        if not os.path.lexists(home / name):
            name = _like(home, name)
        if os.path.isabs(name) or re.match(r"[A-Za-z]:/", name):
            raise _Fault(f"video: {called} is absolute; give it relative to local.folder ({home})")
        path = (home / name).resolve()
        if not path.is_relative_to(home):
            raise _Fault(f"video: {called} leads out of local.folder ({home}); move the file itself into that folder")
        if not path.exists():
            raise _Fault(f"video: {called} is no file in {home}; correct the name or add the file")
        if not path.is_file():
            raise _Fault(f"video: {called} is no file but a folder or device in {home}; name a video file")
        if not os.access(path, os.R_OK):
            raise _Fault(f"video: {called} may not be read; change its permissions")
        if path.stat().st_size == 0:
            raise _Fault(f"video: {called} is empty (0 bytes); copy it again or remove its questions")
    except (OSError, RuntimeError) as error:  # a name too long, a loop of links
        reason = error.strerror if isinstance(error, OSError) else "its links form a loop"
        raise _Fault(f"video: {called} cannot be opened ({reason}); correct the name") from error
    return path


def _like(home: Path, name: str) -> str:
    """Return how the file that a name means is written in its folder, "/" between the parts.

    That is the only one that differs in Unicode form (as from a Mac) or kind of space; backslashes are taken for "/".
    For those that differ in case or suffix _Fault says what to write. A name that no file is like is returned as it is.
    """
    name = name.replace("\\", "/")
    parts = PurePosixPath(name).parts
    path, differs = home, dict[str, None]()
    for part in parts:
        if not os.path.lexists(path / part):
            if ".." in parts or not path.is_dir() or not path.resolve().is_relative_to(home):
                return name
            known, own = _names(path, path.stat().st_mtime_ns), _likenesses(part)
            key = next((key for key in (*own, ("suffix", own[-2][1])) if key in known), None)
            if key is None:
                return name
            fits = known[key]
            if len(fits) > 1:
                how = f"{' and '.join(map(shown, fits[:3]))} differ in {key[0]} only: write one of them"
                raise _Fault(f"video: {shown(name)} is no file in {home}; {how}")
            if key[0] != FORM:
                differs[key[0]] = None
            part = fits[0]
        path /= part
    found = str(path.relative_to(home))
    if differs:
        how = f"{shown(found)} differs in {' and '.join(differs)} only: write that"
        raise _Fault(f"video: {shown(name)} is no file in {home}; {how}")
    return found


@lru_cache(maxsize=256)
def _names(folder: Path, state: int) -> dict[tuple[str, str], list[str]]:
    """Return the names in a folder by what they share with others; `state` is the time of its last change."""
    found = defaultdict[tuple[str, str], list[str]](list)
    for name in sorted(os.listdir(folder)):
        for key in _likenesses(name):
            found[key].append(name)
    return dict(found)


def _likenesses(name: str) -> tuple[tuple[str, str], ...]:
    """Return what names that differ in one thing only have in common, by that thing."""
    form, wide = in_one_form(name), in_one_form(unicodedata.normalize("NFKC", name)).casefold()
    return (FORM, form), ("case", form.casefold()), ("width of letters", wide), ("suffix", PurePosixPath(wide).stem)


def _item(number: str, fields: dict[str, Any], video: str, labelled: bool) -> Item:
    if not (question := _text(fields, "question")):
        raise _Fault("question: empty; write the question, or remove the row")
    options = _options(fields)
    for name, text in [("question", question), *(("options", option) for option in options)]:
        if mark := control_token(text):
            raise _Fault(f"{name}: {shown(text)} holds {mark}, which models take for a command; write it otherwise")
    answer = _answer(fields, options)
    if labelled and not answer:
        lacking = "answer" if options else "options"
        raise _Fault(f"{lacking}: empty, but training needs options and answer; add them, or remove the row")
    name = safe_id(_text(fields, "id") or f"{video}-{number}")
    evidence = _evidence(fields.get("evidence"))
    return Item(name, video, question, options, answer, _text(fields, "task"), evidence=evidence, source="local")


def _options(fields: dict[str, Any]) -> tuple[str, ...]:
    value = fields.get("options")
    if value in (None, "", []):
        return ()
    options = value
    if isinstance(value, str):
        options = value.split("|")
        if re.match(r'\s*\[\s*"', value):  # as in JSON, for options that hold a "|" themselves
            options = None
            with suppress(ValueError, RecursionError):
                options = json.loads(value)
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise _Fault(f'options: {shown(value)} is no list of texts; write ["yes", "no"], or yes|no')
    options = [_text({"options": option}, "options") for option in options]
    if not all(options):
        raise _Fault(f"options: {shown(value)} holds an empty option; remove it")
    if not 2 <= len(options) <= len(LETTERS):
        several = f"give 2 to {len(LETTERS)}, in CSV separated by |"
        raise _Fault(f'options: {len(options)} given; {several}, or ["a|b", "c"] where a text holds one')
    if len({in_one_form(option) for option in options}) < len(options):
        raise _Fault(f"options: {shown(value)} holds an option twice; make them different")
    if all(re.match(rf"\(?{letter}[).:]", option, re.I) for letter, option in zip(LETTERS, options, strict=False)):
        raise _Fault(f"options: {shown(value)} begin with letters, which are put before them anyway; remove them")
    return tuple(options)


def _answer(fields: dict[str, Any], options: tuple[str, ...]) -> str:
    """Return the letter of an answer given as letter or as an option's text ("" where there is none)."""
    count = "may count from 0 or from 1; write the option's letter, or its text"
    if type(fields.get("answer")) in (int, float):
        raise _Fault(f"answer: {fields['answer']} {count} in quotes")
    if not (text := _text(fields, "answer")):
        return ""
    if not options:
        raise _Fault(f"answer: {shown(text)}, but there are no options; add them, or leave the answer out")
    own = dict(zip(LETTERS, map(in_one_form, options), strict=False))
    named = [letter for letter, option in own.items() if option == in_one_form(text)]
    named = named or [letter for letter, option in own.items() if option.casefold() == in_one_form(text).casefold()]
    written = re.fullmatch(r"\(?([A-Za-z])[).:]?", text)
    found = {*named, *([written[1].upper()] if written and written[1].upper() in own else [])}
    if not found:
        remedy = (
            count if text.isdecimal() else f"is neither one of {''.join(own)} nor the text of an option; correct it"
        )
        raise _Fault(f"answer: {shown(text)} {remedy}")
    if len(found) > 1:
        meanings = [*(["a letter"] if written else []), *(f"the text of option {letter}" for letter in named)]
        raise _Fault(f"answer: {shown(text)} is {', and '.join(meanings)}; reword or reorder the options")
    return found.pop()


def _evidence(value: Any) -> tuple[tuple[float, float], ...]:
    if value in (None, "", []):
        return ()
    number = r"\s*(\d+(?:\.\d+)?)\s*"
    pairs = value
    if isinstance(value, str):
        matches = [re.fullmatch(f"{number}-{number}", part) for part in value.split(";") if part.strip()]
        pairs = [match.groups() if match else None for match in matches]
    try:
        spans = tuple((float(start), float(end)) for start, end in pairs)
    except (TypeError, ValueError):
        remedy = 'write [[12, 14.5]], in CSV "12-14.5", in seconds'
        raise _Fault(f"evidence: {shown(value)} is no list of spans; {remedy}") from None
    for start, end in spans:
        if not 0 <= start <= end < float("inf"):
            raise _Fault(f"evidence: {start}-{end} s must begin at 0 or later and end after it begins; correct it")
    return spans
