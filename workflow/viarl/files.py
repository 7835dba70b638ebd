"""Files that are either whole or absent: atomic writes, checked reading of text and JSON, hashes."""

import codecs
import errno
import functools
import hashlib
import itertools
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, Self

LONGEST_LINE = 1_000_000  # bytes; a longer line is refused before it is read
LONGEST_LIST = 100_000_000  # the same where all records of a file are one JSON list, perhaps on one line
_UTF32, _UTF16 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE), (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_MARKS = {**dict.fromkeys(_UTF32, "UTF-32"), **dict.fromkeys(_UTF16, "UTF-16")}  # UTF-32's begin with UTF-16's
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
ABANDONED_S = 2 * 24 * 3600.0  # age of another host's temporary that is taken for left behind
_WORD = re.compile(r"\S")
_HOST = re.sub(r"[^\w-]", "-", socket.gethostname())
_TEMPORARY = re.compile(r"\.(?P<host>[\w-]+)\.(?P<pid>\d+)\.tmp$")


def temporary_beside(path: Path) -> Path:
    """Return the name under which this process writes `path`; what dead processes left in its folder is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path.parent)
    return path.with_name(f".{path.name}.{_HOST}.{os.getpid()}.tmp")


@functools.cache
def _sweep(folder: Path) -> None:
    """Remove the temporaries of dead processes, once a folder and process; of other hosts, those that are days old."""
    for path in folder.glob(".*.tmp"):
        found = _TEMPORARY.search(path.name)
        try:
            if found and found["host"] == _HOST:
                dead = int(found["pid"]) != os.getpid() and not is_alive(int(found["pid"]))
            else:
                dead = time.time() - path.stat().st_mtime > ABANDONED_S
            if dead:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        except OSError:  # gone in the meantime, or not ours to remove
            continue


def is_alive(pid: int) -> bool:
    """Tell whether a process of this host lives."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@contextmanager
def clear_write_errors(path: Path) -> Iterator[None]:
    """Turn what libraries raise on a full disk into an OSError that says so, and let write errors name `path`."""
    try:
        yield
    except Exception as error:
        # safetensors and torch raise errors of their own; torch's names only its source file
        signs = any(sign in str(error) for sign in ("os error 28", "inline_container.cc"))
        if not (error.errno in NO_SPACE if isinstance(error, OSError) else signs):
            raise
        raise OSError(errno.ENOSPC, "No space left on device", str(path)) from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` when the block ends without an error.

    The content is flushed to disk before the rename, so a kill or a full disk leaves the old file or none; a kill also
    leaves the temporary file, which goes when the folder is next written to.
    """
    temporary = temporary_beside(path)
    try:
        with clear_write_errors(path):
            yield temporary
            with temporary.open("rb") as handle:
                os.fsync(handle.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented, keys in the given order, NaN refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; a ValueError names the file when it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); delete it so that its rule makes it again") from error


def text_lines(path: Path, longest: int = LONGEST_LINE) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, line with its end) of a UTF-8 file, with a byte order mark or without, in bounded memory.

    Errors: ValueError naming file, place and remedy: another encoding, a zero byte, a line above `longest` bytes, no
    ordinary file (a named pipe would wait for ever), no permission.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: is no ordinary file; give the name of a text file")
    position = 0
    try:
        with path.open("rb") as handle:
            for number in itertools.count(1):
                line = handle.readline(longest + 1)
                if not line:
                    return
                if number == 1:
                    if mark := next((mark for mark in _MARKS if line.startswith(mark)), None):
                        raise ValueError(f"{path}: is {_MARKS[mark]}; save it as UTF-8")
                    position += len(line) - len(line := line.removeprefix(codecs.BOM_UTF8))
                if len(line) > longest:
                    raise ValueError(f"{path} line {number}: longer than {longest} bytes; end each record's line")
                if b"\0" in line:
                    at = position + line.index(b"\0")
                    raise ValueError(f"{path} line {number}: holds a zero byte (byte {at}); save it as UTF-8 text")
                try:
                    yield number, line.decode("utf-8")
                except UnicodeDecodeError as error:
                    at = position + error.start
                    raise ValueError(f"{path} line {number}: not UTF-8 (byte {at}); save it as UTF-8") from error
                position += len(line)
    except PermissionError as error:
        raise ValueError(f"{path}: may not be read; change its permissions") from error


def json_object(line: str) -> dict[str, Any]:
    """Return the object that a line of JSON holds; ValueError says why it is none, without naming the place."""
    try:
        record = json.loads(line, object_pairs_hook=_distinct, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        place = f"{error.msg} at character {error.pos + 1}"
        raise ValueError(f"not JSON ({place}); write one JSON object a line") from error
    except RecursionError as error:
        raise ValueError("not JSON that can be read (nested too deeply); write one JSON object a line") from error
    if not isinstance(record, dict):
        raise ValueError(f"not a JSON object but {_KINDS[type(record)]}; write one JSON object a line")
    return record


def json_records(path: Path) -> Iterator[tuple[int, dict[str, Any] | ValueError]]:
    """Yield (row from 1, the object or why it is none) of JSON lines, or of one JSON list of objects.

    Errors: ValueError for what `text_lines` refuses, and, naming the line, for a list that breaks off or goes on badly.
    """
    try:
        with path.open("rb") as handle:
            is_list = handle.read(LONGEST_LINE).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")
    except OSError:
        is_list = False  # text_lines says what is wrong
    for number, line in _listed_objects(path) if is_list else text_lines(path):
        if not line.strip():
            continue
        try:
            yield number, json_object(line)
        except ValueError as error:
            yield number, error


def _listed_objects(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (row from 1, text) of the values of a JSON list."""
    text = "".join(line for _, line in text_lines(path, LONGEST_LIST))
    read = json.JSONDecoder(parse_int=str).raw_decode  # a number without end is the record's fault, not the list's
    number, at = 0, _to_word(text, text.index("[") + 1)
    try:
        while number or text[at : at + 1] != "]":
            _, end = read(text, at)
            number += 1
            yield number, text[at:end]
            at = _to_word(text, end)
            if text[at : at + 1] == "]":
                break
            if text[at : at + 1] != ",":
                raise json.JSONDecodeError("a comma or ] is missing", text, at)
            at = _to_word(text, at + 1)
        if (at := _to_word(text, at + 1)) < len(text):
            raise json.JSONDecodeError("more follows behind the list", text, at)
    except json.JSONDecodeError as error:
        place = f"{path} line {error.lineno}: not JSON ({error.msg} at character {error.colno})"
        raise ValueError(f"{place}; correct the list there") from error
    except RecursionError as error:
        what = f"{path} row {number + 1}: not JSON that can be read (nested too deeply)"
        raise ValueError(f"{what}; write a list of objects") from error


def _to_word(text: str, at: int) -> int:
    """Return the place of the next character that is no white space."""
    found = _WORD.search(text, at)
    return found.start() if found else len(text)


_KINDS = {list: "a list", str: "a text", int: "a number", float: "a number", bool: "true or false", type(None): "null"}


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) < len(pairs):
        twice = next(name for index, (name, _) in enumerate(pairs) if name in dict(pairs[:index]))
        raise ValueError(f"{twice}: the field comes twice; remove one")
    return names


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number; write a finite number, or leave the field out")


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal text."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def state(path: Path) -> list[int]:
    """Return what no change of a file's content leaves as it is: size, times of its last changes (ns), inode."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


class KnownHashes:
    """SHA-256 of large files, kept in a JSON file along with their state, so that none is read twice.

    To be used in a `with` block, whose end writes what is new, also after an error. The file may be deleted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known, self._new = self._read(), dict[str, list[Any]]()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._new:
            write_json(self.path, self._read() | self._new)

    def sha256(self, path: Path) -> str:
        """Return a file's hash; OSError where it cannot be read, or was changed meanwhile."""
        name, now = os.path.realpath(path), state(path)
        if self._known.get(name, [])[:-1] != now:
            content = sha256_file(path)
            if state(path) != now:
                raise OSError(errno.EBUSY, "was changed while it was read", str(path))
            self._known[name] = self._new[name] = [*now, content]
        return str(self._known[name][-1])

    def _read(self) -> dict[str, list[Any]]:
        with suppress(OSError, ValueError, TypeError):
            return dict(json.loads(self.path.read_text(encoding="utf-8")))
        return {}


def link_to(link: Path, target: str) -> None:
    """Make `link` a symbolic link with this target, whatever it led to before."""
    if not link.is_symlink() or os.readlink(link) != target:
        link.unlink(missing_ok=True)
        link.symlink_to(target)


def sha256_json(value: Any) -> str:
    """Return the SHA-256 of a JSON value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
