"""What was fetched of one repository, shared by all sets, runs and ablations that take from it.

    commit.json         which commit the revision stood for when it was first asked for; it stays that one
    listing.json        the files of that commit
    files/<path>        annotations, and archives while they are needed
    members/<member>    what was taken out of archives, or a video file of the repository, under its own name there
    archives/<id>.json  of each archive that was read: its parts with checksums, all its members, which lie here

One process at a time works in a store; others wait.
"""

import glob
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from viarl.datasets.hub.archives import ArchiveError, Extracted, Joined, Member, Parts, extract, names, whole_name
from viarl.datasets.hub.client import COMMIT, HubError, RemoteFile, Repository, matching, safe_path
from viarl.datasets.hub.manifest import Source
from viarl.files import read_json, sha256_file, write_json
from viarl.items import safe_id
from viarl.lock import FolderLock, LockError
from viarl.progress import say

WAIT_S = 2.0


class Archive:
    """An archive, by the name of the whole and its parts in order, or one of a repository's video files (`plain`)."""

    def __init__(self, name: str, parts: Sequence[RemoteFile], plain: bool) -> None:
        self.name, self.parts, self.plain = name, list(parts), plain
        self.size = sum(part.size for part in parts)
        self.record = [asdict(part) for part in parts]


class Store:
    """The store of a repository, "owner/name", below the folder of all stores; locked within a `with` block."""

    def __init__(self, root: Path, id: str, revision: str) -> None:
        self.id = id
        self.folder = root / id.replace("/", "--")
        self.files_folder, self.members_folder = self.folder / "files", self.folder / "members"
        self._revision, self._lock = revision, FolderLock(self.folder)

    def __enter__(self) -> Self:
        told = False
        while True:
            try:
                self._lock.__enter__()
                return self
            except LockError as error:
                if not told:
                    say(f"{error} (waiting for it)")
                told = True
                time.sleep(WAIT_S)

    def __exit__(self, *error: Any) -> None:
        self._lock.__exit__(*error)

    @cached_property
    def repository(self) -> Repository:
        """The repository at the commit that is kept for its revision."""
        return Repository(self.id, self._commit())

    def _commit(self) -> str:
        if COMMIT.fullmatch(self._revision):
            return self._revision
        note = self.folder / "commit.json"
        kept = read_json(note) if note.exists() else {}
        if kept.get("revision") != self._revision:
            commit = Repository(self.id, self._revision).commit
            write_json(note, {"repository": self.id, "revision": self._revision, "commit": commit})
        else:
            commit = str(kept["commit"])
        say(f"{self.id}: {self._revision} stays commit {commit} until {note} and the set's items.jsonl are deleted")
        return commit

    @cached_property
    def listing(self) -> list[RemoteFile]:
        """The files of the commit; asked for once."""
        path, commit = self.folder / "listing.json", self.repository.commit
        kept = read_json(path) if path.exists() else {}
        if kept.get("commit") != commit:
            kept = {"commit": commit, "files": [asdict(file) for file in self.repository.list_files()]}
            write_json(path, kept)
        return [RemoteFile(**file) for file in kept["files"]]

    def annotations(self, patterns: Sequence[str]) -> dict[str, Path]:
        """Fetch the files that match and return {path in the repository: file}; HubError where none does."""
        found = matching(self.listing, patterns)
        if not found:
            lacking = f"commit {self.repository.commit} has no file {' or '.join(patterns)}"
            raise HubError(f"{self.repository.page}: {lacking}; set hub.revisions to a commit that has")
        check_room(self.folder, sum(file.size for file in found if not (self.files_folder / file.path).exists()))
        paths = self.repository.download(found, self.files_folder)
        return {file.path: path for file, path in zip(found, paths, strict=True)}

    def sources(self, paths: Iterable[str]) -> list[Source]:
        """Return what the manifest says of files of the repository."""
        wanted = set(paths)
        files = [file for file in self.listing if file.path in wanted]
        return [Source(self.id, self.repository.commit, one.path, one.size, one.sha256, one.blob) for one in files]

    def archives(self, patterns: Sequence[str]) -> list[Archive]:
        """Return what matches, the parts of an archive together, in the order of their numbers.

        What an earlier version of one of them gave is deleted.
        """
        groups: dict[tuple[str, bool], list[RemoteFile]] = {}
        for file in matching(self.listing, patterns):
            whole = whole_name(file.path)
            groups.setdefault((whole or file.path, whole is None), []).append(file)
        found = [Archive(name, parts, plain) for (name, plain), parts in groups.items()]
        for archive in found:  # before any is read, for their members may have changed places
            path = self._record_path(archive)
            if path.exists() and not self._is_same(archive):
                for target in filter(safe_path, read_json(path)["files"]):
                    (self.members_folder / target).unlink(missing_ok=True)
                path.unlink()
        return found

    def _is_same(self, archive: Archive) -> bool:
        """Tell whether the record, whole or not, is of this very archive."""
        path = self._record_path(archive)
        return path.exists() and bool(read_json(path)["parts"] == archive.record)

    def _record_path(self, archive: Archive) -> Path:
        return self.folder / "archives" / f"{safe_id(archive.name)}.json"

    def record(self, archive: Archive) -> Extracted | None:
        """Return what is known of an archive that was read, None where it was not, or has changed since."""
        if not self._is_same(archive) or not (kept := read_json(self._record_path(archive)))["whole"]:
            return None
        files = {target: Member(**member) for target, member in kept["files"].items()}
        return Extracted(files, kept["refused"], kept["names"])

    def _write_record(self, archive: Archive, found: Extracted, whole: bool) -> None:
        files = {target: asdict(member) for target, member in sorted(found.files.items())}
        told = {"files": files, "refused": dict(sorted(found.refused.items())), "names": found.names}
        write_json(self._record_path(archive), {"whole": whole, "parts": archive.record, **told})

    def contents(self, archive: Archive) -> Extracted:
        """Return what an archive holds; where that is not known it is fetched and looked into, and stays."""
        if archive.plain:
            return Extracted(names=[archive.name])
        known = self.record(archive) or self.look_into(archive)
        if known is None:
            paths = self.repository.download(archive.parts, self.files_folder)
            known = Extracted(names=names(Joined(paths), archive.name))
            self._write_record(archive, known, whole=True)
        return known

    def look_into(self, archive: Archive) -> Extracted | None:
        """Return what a zip holds, by the directory at its end, without fetching it; None where that cannot be."""
        if archive.plain or not archive.name.lower().endswith(".zip"):
            return None
        repository, parts = self.repository, archive.parts
        remote = Parts([part.size for part in parts], lambda index, *span: repository.read(parts[index], *span))
        try:
            known = Extracted(names=names(remote, archive.name))
        except ArchiveError:
            return None  # fetching it will tell
        except HubError as error:
            say(f"{archive.name}: {error}; it is fetched to see what it holds")
            return None
        self._write_record(archive, known, whole=True)
        return known

    def lies_here(self, target: str, member: Member) -> bool:
        """Tell whether a member that was taken out is still there with its size."""
        path = self.members_folder / target
        return path.is_file() and path.stat().st_size == member.size

    def take(self, archive: Archive, wanted: Callable[[str], bool], keep: bool) -> Extracted:
        """Fetch an archive, take out the members whose names are wanted, and delete it unless `keep`.

        Returns all that it has given, now and before. Killed at any point, the next call ends in the same state.
        """
        if archive.plain:
            file = archive.parts[0]
            (path,) = self.repository.download([file], self.members_folder)
            member = Member(file.path, file.size, file.sha256 or sha256_file(path))
            found = Extracted({file.path: member}, {}, [file.path])
        else:
            known = self.record(archive)
            trusted = self._is_same(archive)  # then the files of a reading that was cut off are kept
            if known is None:
                self._write_record(archive, Extracted(), whole=False)
            parts = self.repository.download(archive.parts, self.files_folder)
            found = extract(parts, lambda name: name if wanted(name) else None, self.members_folder, trusted)
            for target, member in known.files.items() if known else ():
                if target not in found.files and self.lies_here(target, member):
                    found.files[target] = member
        self._write_record(archive, found, whole=True)
        if not keep:
            self.drop(archive)
        return found

    def fetched_bytes(self, archive: Archive) -> int:
        """Return how many bytes of an archive are there."""
        return sum(file.stat().st_size for part in archive.parts for file in self._fetched(part) if file.exists())

    def _fetched(self, part: RemoteFile) -> list[Path]:
        path = self.files_folder / part.path
        return [path, *path.parent.glob(f"{glob.escape(path.name)}.*.part")]

    def drop(self, archive: Archive) -> None:
        """Delete the files of an archive, and what was fetched of them."""
        for part in archive.parts:
            for file in self._fetched(part):
                file.unlink(missing_ok=True)


def check_room(folder: Path, needed: int, why: str = "", keys: str = "hub.limit, hub.archives") -> None:
    """Raise HubError where the disk of a folder has less than `needed` bytes free."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise HubError(
            f"{folder}: {needed / 1e9:.2f} GB are needed{why}, {free / 1e9:.2f} GB are free; make room, take less "
            f"({keys}), or set pathvars.data to another disk"
        )
