"""manifest.json of a set: every file, its size and SHA-256, and where on the hub it came from.

The same files make the same bytes, whatever interruptions came before. It is written last, so that it stands for a
finished download.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from viarl.files import write_json


@dataclass(frozen=True)
class Origin:
    """Where a file came from: repository, commit, path there, and the archive's member if the path is an archive's."""

    repository: str
    commit: str
    path: str
    member: str = ""


@dataclass(frozen=True)
class Entry:
    """A file of a set: its name relative to the manifest's folder, size in bytes, SHA-256, origin."""

    file: str
    size: int
    sha256: str
    origin: Origin


@dataclass(frozen=True)
class Source:
    """A file of a repository that something was taken from; `sha256` is "" where the hub states `blob`, git's id."""

    repository: str
    commit: str
    path: str
    size: int
    sha256: str
    blob: str


def write_manifest(path: Path, set: str, sources: Iterable[Source], entries: Iterable[Entry]) -> None:
    """Write a manifest atomically, everything sorted."""
    came_from = [asdict(one) for one in sorted(sources, key=lambda one: (one.repository, one.path))]
    files = [asdict(one) for one in sorted(entries, key=lambda one: one.file)]
    write_json(path, {"version": 1, "set": set, "sources": came_from, "files": files})
