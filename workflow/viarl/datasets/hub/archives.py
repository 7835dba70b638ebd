"""Taking files out of archives that come from outside: .zip, .tar, .tar.gz (.bz2, .xz), whole or split into parts.

The parts of a split archive are read as if they were one file; nothing is copied together. Never written is what has a
name that leads out of the folder, is a link or device, is encrypted, comes twice, or is larger than it may be; each is
told with its reason. An archive that as a whole unpacks to far more than its own size is refused.
"""

import bisect
import gzip
import hashlib
import io
import itertools
import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from viarl.datasets.hub.client import safe_path
from viarl.faults import shown
from viarl.files import atomic_path, sha256_file

CHUNK = 2**20  # bytes
BUFFER = 2**16  # bytes; more would be asked of the hub in vain where only a zip's directory is read
LARGEST = 64 * 10**9  # bytes of one member; the longest videos of the benchmarks have a few GB
RATIO = 200  # how many times its packed size a member, or an archive, may have; subtitles shrink to a tenth
SLACK = 64 * 10**6  # bytes below which no ratio is looked at
_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    gzip.BadGzipFile,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
)
_WHOLE = re.compile(r"\.(zip|tar|tgz|tar\.(gz|bz2|xz))$", re.IGNORECASE)
_PART = re.compile(r"(?P<whole>.*\.(zip|tar|tgz|tar\.(gz|bz2|xz)))[._-]?(part)?[._-]?(\d+|[a-z]{1,3})$", re.IGNORECASE)
_SPANNED = re.compile(r"\.z\d\d$", re.IGNORECASE)


Found = tuple[str, int, str, Callable[[], IO[bytes]]]  # name, size, why it is unsafe, how it is opened


class ArchiveError(ValueError):
    """An archive that cannot be read or must not be unpacked; the message names it."""


@dataclass(frozen=True)
class Member:
    """A member that was written: its name in the archive, size in bytes and SHA-256."""

    name: str
    size: int
    sha256: str


@dataclass
class Extracted:
    """What came out of an archive: `files` that lie in the folder now, by target; what was wanted or unsafe and is not
    written, with reasons; names of every other file of the archive, and of those that were written.
    """

    files: dict[str, Member] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)


class Parts(io.RawIOBase):
    """Byte strings of the given sizes, read one behind the other as one; with random access, without a copy.

    `read` gives the bytes from start to end - 1 of a part, or the first ones of them.
    """

    def __init__(self, sizes: Sequence[int], read: Callable[[int, int, int], bytes]) -> None:
        super().__init__()
        self.ends = list(itertools.accumulate(sizes))  # where each part ends
        self.place = 0
        self._read = read

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position in the whole."""
        place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.ends[-1]}[whence]
        if place < 0:
            raise ValueError(f"position {place} lies before the beginning")
        self.place = place
        return place

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, up to the end of the part at hand."""
        view = memoryview(buffer).cast("B")
        index = bisect.bisect_right(self.ends, self.place)
        if index >= len(self.ends) or not view:
            return 0
        begin = self.ends[index - 1] if index else 0
        data = self._read(index, self.place - begin, min(self.place + len(view), self.ends[index]) - begin)
        view[: len(data)] = data
        self.place += len(data)
        return len(data)


class Joined(Parts):
    """The parts of an archive in files, of which one at a time is open."""

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__([path.stat().st_size for path in paths], self._read_file)
        self.paths = list(paths)
        self._opened, self._index = ExitStack(), -1

    def _read_file(self, index: int, start: int, end: int) -> bytes:
        if self._index != index:
            self._opened.close()
            self._handle = self._opened.enter_context(self.paths[index].open("rb", buffering=0))
            self._index = index
        self._handle.seek(start)
        if not (data := self._handle.read(end - start)):
            raise OSError(f"{self.paths[index]}: was cut while it was read; run this again")
        return data

    def close(self) -> None:
        """Close the part that is open."""
        self._opened.close()
        super().close()


def whole_name(path: str) -> str | None:
    """Return the name of the archive that a file is, or is a part of; None where it is no archive.

    "a.zip", "a.tar.gz", and of their parts "a.zip.001", "a.tar.gz.part-aa", "a.tar.part.aa". Errors: ArchiveError for
    ".z01" of a zip in several volumes, which cannot be read as a stream.
    """
    if _SPANNED.search(path):
        why = "a zip in several volumes (.z01); only archives that were cut into parts can be read"
        raise ArchiveError(f"{path}: {why}")
    if _WHOLE.search(path):
        return path
    found = _PART.match(path)
    return found["whole"] if found else None


def extract(
    parts: Sequence[Path],
    wanted: Callable[[str], str | None],
    folder: Path,
    trusted: bool = True,
    largest: int = LARGEST,
) -> Extracted:
    """Write the wanted members of an archive, given by its parts in order, below a folder.

    `wanted` gives the target, relative to `folder`, of a member's name, None to leave it out. With `trusted`, a file
    that lies at a target and has the member's size is kept. `largest`: bytes that one member may have.
    Errors: ArchiveError for a damaged archive, and one that unpacks to absurd size.
    """
    found = Extracted()
    seen: set[str] = set()
    with _reading(Joined(parts), str(parts[0])) as members:
        for name, size, unsafe, read in members:
            target = None if unsafe or safe_path(name) is None else wanted(name)
            if unsafe or safe_path(name) is None:
                reason = unsafe or "name leads out of the folder"
            elif target is None:
                found.names.append(name)
                continue
            elif size > largest:
                reason = f"{size} bytes are more than {largest}"
            elif name in seen or target in found.files:
                reason = "comes twice; the first is taken"
            elif safe_path(target) is None:
                reason = f"target {target} leads out of the folder"
            else:
                seen.add(name)
                found.names.append(name)
                found.files[target] = _write(name, size, read, folder / target, trusted)
                continue
            found.refused[shown(name)] = reason
    return found


def names(parts: Parts, called: str) -> list[str]:
    """Return the names of the files in an archive, in its order; of a zip, only its directory is read for that.

    `called` names it in errors, which are as of `extract`.
    """
    with _reading(parts, called) as members:
        return [name for name, _, unsafe, _ in members if not unsafe and safe_path(name)]


@contextmanager
def _reading(parts: Parts, called: str) -> Iterator[Iterator[Found]]:
    try:
        with io.BufferedReader(parts, BUFFER) as stream:
            magic = stream.read(4)
            stream.seek(0)
            yield _zip_members(stream) if magic in (b"PK\x03\x04", b"PK\x05\x06") else _tar_members(stream)
    except ArchiveError as error:
        raise ArchiveError(f"{called}: {error}") from error
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        remedy = "delete it, so that it is fetched again; if it comes again like this, it is damaged on the hub"
        raise ArchiveError(f"{called}: cannot be read as an archive ({reason}); {remedy}") from error


def _zip_members(stream: IO[bytes]) -> Iterator[Found]:
    whole = stream.seek(0, io.SEEK_END)
    with zipfile.ZipFile(stream) as archive:
        infos = [info for info in archive.infolist() if not info.is_dir()]
        packed = sum(info.compress_size for info in infos)
        if packed > whole:  # members that share their bytes: how small files unpack to petabytes
            raise ArchiveError(f"its members take {packed} bytes of {whole}, so they overlap; it is not unpacked")
        for info in infos:
            unsafe, mode = "", info.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                unsafe = "is a link or a device"
            elif info.flag_bits & 1:
                unsafe = "is encrypted"
            elif info.file_size > max(SLACK, RATIO * info.compress_size):
                unsafe = f"unpacks from {info.compress_size} to {info.file_size} bytes"
            yield _zip_name(info), info.file_size, unsafe, lambda info=info: archive.open(info)  # type: ignore[misc]


def _zip_name(info: zipfile.ZipInfo) -> str:
    """Return a member's name: "/" for the backslashes of Windows; UTF-8 also where it is not said to be, as on Macs."""
    name = info.filename
    if not info.flag_bits & 0x800:  # then zipfile takes it for cp437
        with suppress(UnicodeError):
            name = name.encode("cp437").decode()
    return name.replace("\\", "/")


def _tar_members(stream: IO[bytes]) -> Iterator[Found]:
    limit = max(SLACK, RATIO * stream.seek(0, io.SEEK_END))
    stream.seek(0)
    # tarfile itself would stop behind the first of several gzip members, and compares no checksum
    gzipped = stream.read(2) == b"\x1f\x8b"
    stream.seek(0)
    source: Any = gzip.GzipFile(fileobj=stream) if gzipped else stream
    # as a stream: tarfile unpacks what it passes over, so nothing larger than it can hold is passed over
    with tarfile.open(fileobj=source, mode="r|" if gzipped else "r|*", bufsize=CHUNK) as archive:
        for info in archive:
            if info.offset_data + info.size > limit:
                raise ArchiveError(f"unpacks to {info.offset_data + info.size} bytes and more; it is not unpacked")
            if info.isdir():
                continue
            unsafe = "" if info.isreg() and not info.issparse() else "is a link, a device or sparse"

            def opened(info: tarfile.TarInfo = info) -> IO[bytes]:
                handle = archive.extractfile(info)
                assert handle is not None
                return handle

            yield info.name, info.size, unsafe, opened
            archive.members = []  # type: ignore[attr-defined]  # else it remembers every header of the archive


def _write(name: str, size: int, read: Callable[[], IO[bytes]], path: Path, trusted: bool) -> Member:
    if trusted and path.is_file() and path.stat().st_size == size:
        return Member(name, size, sha256_file(path))
    digest, left = hashlib.sha256(), size
    with atomic_path(path) as temporary, read() as source, temporary.open("wb") as handle:
        while chunk := source.read(CHUNK):
            left -= len(chunk)
            if left < 0:
                raise ArchiveError(f"{shown(name)} is longer than the {size} bytes that the archive states")
            digest.update(chunk)
            handle.write(chunk)
        if left:
            raise ArchiveError(f"{shown(name)} is {left} bytes shorter than the archive states")
    return Member(name, size, digest.hexdigest())
