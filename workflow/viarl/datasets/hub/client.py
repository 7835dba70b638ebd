"""Files of a data set repository on a hub: listed, and downloaded so that an interrupted download goes on.

`huggingface_hub` speaks to the hub (endpoint from HF_ENDPOINT, token from HF_TOKEN, both optional). Its own download
starts a file anew in every process, which at 5 GB a file costs an hour; so the bytes are fetched here, through its
session, into `<file>.<begin of the checksum>.part`, and a file gets its name only when its size and checksum are right.
"""

import fnmatch
import glob
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO

import httpx2
from huggingface_hub import HfApi, get_session, hf_hub_url
from huggingface_hub import errors as refusals
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, paginate

from viarl.faults import shown
from viarl.files import sha256_file
from viarl.progress import Progress, say

HUB = "https://huggingface.co"
COMMIT = re.compile(r"[0-9a-f]{40}")
ATTEMPTS = 10  # in a row without a byte gained, before a download fails: about five minutes
READ_ATTEMPTS = 4  # of a part of a file
WAIT_S = 0.1  # seconds before the connection is opened again; three times that after each failure
LONGEST_WAIT_S = 60.0
LIMITED_S = 60.0  # seconds before the next request where the hub says that there were too many
TIMEOUT_S = 30.0  # seconds without a byte
_RETRIED = (408, 429, 500, 502, 503, 504)


class HubError(ValueError):
    """The hub does not give what is asked for; one line that says why and what to do."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository: size in bytes; `sha256` of its content, or "" and then `blob`, its git object id."""

    path: str
    size: int
    sha256: str
    blob: str = ""

    @property
    def checksum(self) -> str:
        """The checksum that the hub states."""
        return self.sha256 or self.blob

    def matches(self, path: Path) -> bool:
        """Tell whether a file has this size and checksum; it is read to its end."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        if self.sha256:
            return sha256_file(path) == self.sha256
        begun = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, lambda: begun).hexdigest() == self.blob


def safe_path(name: str) -> PurePosixPath | None:
    """Return a name from outside as a path that stays below any folder it is joined to, or None if it would not."""
    path = PurePosixPath(name)
    plain = all(part not in ("", ".", "..") and len(part.encode()) <= 200 for part in path.parts)
    printable = not any(ord(letter) < 32 or ord(letter) == 127 or "\ud800" <= letter <= "\udfff" for letter in name)
    absolute = path.is_absolute() or "\\" in name or re.match(r"[A-Za-z]:", name)
    return path if name and path.parts and plain and printable and not absolute else None


class Repository:
    """A data set repository, "owner/name", at a revision: a branch, a tag or a commit.

    It is resolved to a commit at the first request, and used as that commit from then on.
    """

    def __init__(self, id: str, revision: str = "main") -> None:
        self.id, self.revision = id, revision
        self.endpoint = (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")

    @property
    def page(self) -> str:
        """The address of the repository's page, where a licence is accepted."""
        return f"{self.endpoint}/datasets/{self.id}"

    @cached_property
    def commit(self) -> str:
        """The commit, 40 hexadecimal digits, that the revision stands for."""
        if COMMIT.fullmatch(self.revision):
            return self.revision
        with self._explained():
            commit = HfApi(self.endpoint).dataset_info(self.id, revision=self.revision, timeout=TIMEOUT_S).sha
        if not commit or not COMMIT.fullmatch(commit):
            raise HubError(f"{self.page}: names no commit for the revision {self.revision!r}; is HF_ENDPOINT a hub?")
        return commit

    def list_files(self) -> list[RemoteFile]:
        """Return the files of the commit, sorted by path; HubError for a name that would leave its folder."""
        found = []
        address = f"{self.endpoint}/api/datasets/{self.id}/tree/{self.commit}"
        with self._explained():
            # HfApi.list_repo_tree asks the same, but waits without end for a hub that says nothing
            for entry in paginate(address, {"recursive": True}, build_hf_headers(), timeout=TIMEOUT_S):
                if entry["type"] == "file":
                    lfs = entry.get("lfs")
                    sha256, size = (lfs["oid"], lfs["size"]) if lfs else ("", entry["size"])
                    found.append(RemoteFile(entry["path"], size, sha256, entry["oid"]))
        for file in found:
            if safe_path(file.path) is None:
                raise HubError(f"{self.page}: holds a file named {shown(file.path)}, which would leave its folder")
        return sorted(found, key=lambda file: file.path)

    def download(self, files: Iterable[RemoteFile], folder: Path) -> list[Path]:
        """Fetch files to `folder/<path>` and return where they lie; those that are there, whole and right, are kept.

        Errors: HubError for what the hub refuses or lacks, a network that stays away, a wrong checksum.
        """
        paths = []
        for file in files:
            path = folder / file.path
            if not file.matches(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                self._fetch_whole(file, path)
            paths.append(path)
        return paths

    def read(self, file: RemoteFile, start: int, end: int) -> bytes:
        """Return the bytes start .. end - 1 of a file; HubError also where the hub gives no parts of files."""
        for failures in range(1, READ_ATTEMPTS):
            try:
                return self._read(file, start, end)
            except HubError as error:
                status = getattr(getattr(error.__cause__, "response", None), "status_code", 0)
                if not isinstance(error.__cause__, httpx2.RequestError) and status not in _RETRIED:
                    raise
                time.sleep(WAIT_S * 3**failures)
        return self._read(file, start, end)

    def _read(self, file: RemoteFile, start: int, end: int) -> bytes:
        headers = build_hf_headers(headers={"Accept-Encoding": "identity", "Range": f"bytes={start}-{end - 1}"})
        with self._explained(file.path), self._response(file, headers) as response:
            if response.status_code != 206:
                raise HubError(f"{self.page}: {file.path} is given as a whole only")
            return response.read()

    @contextmanager
    def _response(self, file: RemoteFile, headers: dict[str, str]) -> Iterator[httpx2.Response]:
        where = hf_hub_url(self.id, file.path, repo_type="dataset", revision=self.commit, endpoint=self.endpoint)
        # the hub answers with a redirection to a signed address elsewhere; the session leaves the token behind then
        with get_session().stream("GET", where, headers=headers, timeout=TIMEOUT_S) as response:
            if response.status_code >= 400:
                response.read()
                hf_raise_for_status(response)
            yield response

    def _fetch_whole(self, file: RemoteFile, path: Path) -> None:
        part = path.with_name(f"{path.name}.{file.checksum[:16]}.part")
        for other in path.parent.glob(f"{glob.escape(path.name)}.*.part"):
            if other != part:
                other.unlink()  # of another version
        for repeated in (False, True):
            self._fetch(file, part)
            if file.matches(part):
                with part.open("rb") as handle:
                    os.fsync(handle.fileno())
                part.replace(path)
                return
            part.unlink()
            if not repeated:
                say(f"{file.path}: fetched, but its checksum is wrong; once more from its beginning")
        raise HubError(
            f"{self.page}: {file.path} has another checksum than the hub states ({file.checksum}), twice; it was "
            "deleted. Something on the way from the hub damages it (a proxy, a mirror): look there, then run this again"
        )

    def _fetch(self, file: RemoteFile, part: Path) -> None:
        """Append to `part` what it lacks; a connection that breaks is opened again for as long as bytes come in."""
        failures = best = 0
        part.touch()
        with part.open("r+b", buffering=0) as handle:
            if handle.seek(0, os.SEEK_END) > file.size:
                handle.truncate(0)
            before = handle.seek(0, os.SEEK_END)
            progress = Progress(f"{file.path}, MB", round(file.size / 1e6))
            if before:
                say(f"{file.path}: goes on behind {before / 1e6:.0f} MB of {file.size / 1e6:.0f} MB")
                progress.advance(round(before / 1e6))
            while handle.tell() < file.size:
                best = max(best, handle.tell())
                limited = False
                try:
                    self._stream(file, handle, progress)
                    reason = "the connection ended early"
                except OfflineModeIsEnabled as error:
                    raise self._explanation(error, file.path) from error
                except httpx2.RequestError as error:
                    reason = str(error) or type(error).__name__
                except HfHubHTTPError as error:
                    reason = f"status {error.response.status_code}"
                    limited = error.response.status_code == 429
                    if error.response.status_code == 416:
                        reason = "it is shorter than the hub lists it"
                        handle.truncate(handle.seek(0))
                    elif error.response.status_code not in _RETRIED:
                        raise self._explanation(error, file.path) from error
                if handle.tell() >= file.size:
                    break
                failures = 0 if handle.tell() > best else failures + 1
                if failures >= ATTEMPTS:
                    came = max(best, handle.tell())
                    raise HubError(
                        f"{self.page}: {file.path} cannot be fetched ({reason}, {ATTEMPTS} times); {came} of "
                        f"{file.size} bytes came; run this again when the network is back"
                    )
                say(f"{file.path}: {reason}; once more behind {handle.tell()} bytes")
                time.sleep(LIMITED_S if limited else min(WAIT_S * 3**failures, LONGEST_WAIT_S))

    def _stream(self, file: RemoteFile, handle: IO[bytes], progress: Progress) -> None:
        """Append what one response gives from the handle's position on, never more than the file holds."""
        start = handle.tell()
        headers = build_hf_headers(headers={"Accept-Encoding": "identity"})
        if start:
            headers["Range"] = f"bytes={start}-"
        with self._response(file, headers) as response:
            if start and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                handle.seek(0)  # the server knows no ranges
                handle.truncate()
            done = handle.tell()
            for chunk in response.iter_bytes():
                left = memoryview(chunk)[: file.size - done]
                while left:  # a write without a buffer may take less
                    left = left[handle.write(left) :]
                progress.advance(round((done + len(chunk)) / 1e6) - round(done / 1e6))
                done += len(chunk)
                if done >= file.size:
                    return

    @contextmanager
    def _explained(self, path: str = "") -> Iterator[None]:
        try:
            yield
        except (HfHubHTTPError, httpx2.RequestError, OfflineModeIsEnabled) as error:
            raise self._explanation(error, path) from error
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise HubError(f"{self.page}: answers as no hub does ({error!r}); check HF_ENDPOINT") from error

    def _explanation(self, error: Exception, path: str = "") -> HubError:
        """Return one line that says what the hub or the network refused, and what to do."""
        what = f"{self.page}: {path}".rstrip(": ")
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
        if isinstance(error, OfflineModeIsEnabled):
            why = "HF_HUB_OFFLINE is set; unset it, or bring the files, then run this again"
        elif isinstance(error, refusals.RevisionNotFoundError):
            why = f"has no revision {self.revision!r}; correct hub.revisions, or set it to main"
        elif isinstance(error, refusals.RemoteEntryNotFoundError):
            why = f"is not there at commit {self.commit}; set hub.revisions to a commit that has it"
        elif isinstance(error, refusals.GatedRepoError) or status == 403:
            tokens = f"{self.endpoint}/settings/tokens, export it as HF_TOKEN, then run this again"
            why = f"access is gated. Log in, accept the conditions at {self.page}, make a token at {tokens}"
        elif isinstance(error, refusals.RepositoryNotFoundError) or status == 401:
            remedy = "if it asks for it, accept its conditions there and export a token that may read it as HF_TOKEN"
            why = f"there is no such repository, or it is private or gated: look at {self.page}; {remedy}"
        elif status:
            why = f"the hub answers with status {status}; try again later"
        else:
            reason = " ".join(str(error).split()) or type(error).__name__
            why = f"cannot be reached ({reason}); check the network and HF_ENDPOINT, then run this again"
        return HubError(f"{what}: {why}")


def matching(files: Sequence[RemoteFile], patterns: Sequence[str]) -> list[RemoteFile]:
    """Return the files whose path matches any pattern ("*" matches "/" too), in the order of their numbers."""
    found = [file for file in files if any(fnmatch.fnmatchcase(file.path, pattern) for pattern in patterns)]
    return sorted(found, key=lambda file: natural(file.path))


def natural(name: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts part_2 before part_10."""
    return [(0, int(piece), "") if piece.isdigit() else (1, 0, piece) for piece in re.split(r"(\d+)", name)]
