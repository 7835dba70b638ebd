"""Replies kept on disk, so that no process asks again what another one asked the same answerer.

A folder for each answerer, named by a hash of its identity, which stands in `identity.json` there. Every process
appends to a file of its own, a line a reply, and reads those of the others when it starts: writers need no lock. A kill
loses at most a torn last line. A line carries a checksum; a file with a line that does not fit it is set aside. Nothing
here can fail a stage: what cannot be read is asked again, what cannot be written is not kept.
"""

import json
import os
import socket
import uuid
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from viarl.files import sha256_json, write_json
from viarl.progress import say

IDENTITY = "identity.json"
_DIGITS = 32  # hexadecimal digits of a request's hash that are kept


class ReplyCache:
    """The replies of one answerer; `identity` is all that a reply depends on besides its request."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder / sha256_json(identity)[:16]
        self._known: dict[str, str] = {}
        self._file: IO[str] | None = None
        self._broken = False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / IDENTITY).exists():
                write_json(self.folder / IDENTITY, dict(identity))
            for path in sorted(self.folder.glob("*.jsonl")):
                self._read(path)
        except OSError as error:
            self._give_up(error)

    def __len__(self) -> int:
        return len(self._known)

    def get(self, request: str) -> str | None:
        """Return the text that answers a request, given by its hash; None where it is not known."""
        return self._known.get(request[:_DIGITS])

    def put(self, request: str, text: str) -> None:
        """Keep the text that answers a request."""
        key = request[:_DIGITS]
        if self._known.get(key) == text:
            return
        self._known[key] = text
        if self._broken:
            return
        try:
            if self._file is None:
                name = f"{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex[:8]}.jsonl"
                self._file = (self.folder / name).open("a", encoding="utf-8")
            self._file.write(json.dumps([key, text, _checksum(key, text)]) + "\n")
            self._file.flush()
        except OSError as error:
            self._give_up(error)

    def _read(self, path: Path) -> None:
        """Add a file's replies; one that is damaged is renamed and adds none."""
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]  # its process was killed, or is writing
        try:
            found = dict(_parsed(line) for line in whole.splitlines())
        except ValueError as error:
            aside = path.with_suffix(".damaged")
            path.replace(aside)
            say(f"warning: kept replies are damaged ({error}); set aside as {aside}, and asked again")
        else:
            self._known.update(found)

    def _give_up(self, error: OSError) -> None:
        self._broken = True
        say(f"warning: replies are not kept in {self.folder} ({error.strerror or error}); the stage goes on without")


def _parsed(line: bytes) -> tuple[str, str]:
    entry = json.loads(line)
    if not (isinstance(entry, list) and len(entry) == 3 and all(isinstance(part, str) for part in entry[:2])):
        raise ValueError("a line is no reply")
    key, text, checksum = entry
    if checksum != _checksum(key, text):
        raise ValueError("a line does not fit its checksum")
    return key, text


def _checksum(key: str, text: str) -> int:
    return zlib.crc32(f"{key} {text}".encode("utf-8", "surrogatepass"))
