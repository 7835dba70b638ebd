"""Files that are either whole or absent: atomic writes, JSON, hashes."""

import errno
import functools
import hashlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
ABANDONED_S = 2 * 24 * 3600.0  # age of another host's temporary that is taken for left behind
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
        return True
    return True


@contextmanager
def clear_write_errors(path: Path) -> Iterator[None]:
    """Turn what libraries raise on a full disk into an OSError that says so, and let write errors name `path`."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in NO_SPACE:
            raise
        # safetensors and torch raise errors of their own; torch's names only its source file
        full = isinstance(error, OSError) or any(sign in str(error) for sign in ("os error 28", "inline_container.cc"))
        if not full:
            raise
        raise OSError(errno.ENOSPC, "No space left on device", str(path)) from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` when the block ends without an error.

    The content is flushed to disk before the rename, so a kill or a full disk leaves the old file or none.
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


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal text."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Return the SHA-256 of a JSON value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
