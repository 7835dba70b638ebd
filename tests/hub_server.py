"""A hub on loopback that the real huggingface_hub client speaks to: listing, gating, redirections, ranges, breakdowns.

    with HubServer() as hub:
        hub.add("owner/name", {"data/a.zip": b"…"})
        os.environ["HF_ENDPOINT"] = hub.endpoint

What it answers and with which headers follows huggingface.co: `api/datasets/…` (info, and the tree in pages),
`datasets/<id>/resolve/<revision>/<path>` with HEAD and GET; large files (LFS) are redirected to another origin, as to
the hub's storage, where no token may arrive.
"""

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Repo:
    """A repository: its commits, each {path: content}; the last one is main. `lfs`: files at least this long."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    lfs: int = 64
    gated: bool = False
    accepted: set[str] = field(default_factory=set)  # tokens that may read it

    @property
    def main(self) -> str:
        """The commit that main stands for."""
        return list(self.commits)[-1]


@dataclass(frozen=True)
class Request:
    """A request that came in: of the hub itself or of its storage."""

    method: str
    path: str
    range: str
    token: str
    storage: bool


class HubServer:
    """The hub and its storage, served by threads of this process.

    Attributes:
        requests: what came in.
        sent: bytes of contents sent, by path.
        cut: asked before a content of n bytes is sent; returns after how many bytes the connection breaks, None never.
        chunk: bytes sent at once; chunk_s: seconds before each.
        lie: {path: content} sent in place of the true content.
        ranges: whether the storage answers requests for a range.
        silent_s: seconds before any answer.
        down: how many requests are answered by `down_status` from now on.
        garbage: whether every answer is JSON of another kind.
    """

    def __init__(self, page: int = 1000) -> None:
        self.repos: dict[str, Repo] = {}
        self.page = page
        self.requests: list[Request] = []
        self.sent: dict[str, int] = {}
        self.cut: Callable[[int], int | None] = lambda size: None
        self.chunk, self.chunk_s = 16 * 1024, 0.0
        self.lie: dict[str, bytes] = {}
        self.ranges = True
        self.down = 0
        self.closed = False
        self.silent_s = 0.0
        self.garbage = False
        self.down_status = 503

    def add(self, id: str, files: dict[str, bytes], **options: Any) -> str:
        """Add a commit to a repository, which is made where there is none; return it."""
        repo = self.repos.setdefault(id, Repo(**options))
        parts = "".join(f"{path}{hashlib.sha256(data).hexdigest()}" for path, data in sorted(files.items()))
        commit = hashlib.sha1(f"{len(repo.commits)}{parts}".encode()).hexdigest()
        repo.commits[commit] = dict(files)
        return commit

    def add_folders(self, root: Path) -> None:
        """Add every repository below a folder, `root`/<owner>/<name>/…, with all its files as one commit."""
        for home in sorted(path for path in root.glob("*/*") if path.is_dir()):
            files = {path.relative_to(home).as_posix(): path.read_bytes() for path in home.rglob("*") if path.is_file()}
            self.add(home.relative_to(root).as_posix(), files)

    def __enter__(self) -> Self:
        self._servers = [self._serve(storage=False), self._serve(storage=True)]
        self.endpoint, self.storage = (f"http://127.0.0.1:{server.server_address[1]}" for server in self._servers)
        return self

    def __exit__(self, *error: object) -> None:
        self.closed = True
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def _serve(self, storage: bool) -> ThreadingHTTPServer:
        handler = type("Handler", (_Handler,), {"hub": self, "storage": storage})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    storage: bool
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.hub.requests.append(Request(self.command, path, self.headers.get("Range", ""), token, self.storage))
        time.sleep(self.hub.silent_s)
        if self.hub.closed:
            self.close_connection = True
            return None
        if self.hub.down:
            self.hub.down -= 1
            return self.fail(self.hub.down_status, "", "away")
        if self.hub.garbage:
            return self.send_json(["no", "hub"])
        pattern = r"/(api/)?datasets/([\w.-]+/[\w.-]+)(?:/(revision|tree|resolve)/([^/]+)(?:/(.+))?)?"
        found = re.fullmatch(pattern, path)
        repo = self.hub.repos.get(found[2]) if found else None
        if not found or repo is None:
            return self.fail(404 if token else 401, "RepoNotFound", "Repository not found")
        api, id, kind, revision, name = found.groups()
        commit = repo.main if revision in (None, "main") else revision
        if commit not in repo.commits:
            return self.fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = repo.commits[commit]
        if api and kind in (None, "revision"):
            return self.send_json({"id": id, "sha": commit, "gated": "manual" if repo.gated else False})
        if api and kind == "tree":
            return self.send_tree(repo, files, parse_qs(url.query))
        if repo.gated and not self.storage and token not in repo.accepted:
            why = f"Access to dataset {id} is restricted."
            return self.fail(403 if token else 401, "GatedRepo", why)
        if name not in files:
            return self.fail(404, "EntryNotFound", "Entry not found")
        return self.send_content(repo, commit, name, files[name])

    def send_tree(self, repo: Repo, files: dict[str, bytes], query: dict[str, list[str]]) -> None:
        start = int(query.get("cursor", ["0"])[0])
        folders = sorted({path.rpartition("/")[0] for path in files} - {""})
        entries = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": folder} for folder in folders]
        for path, data in sorted(files.items()):
            entry: dict[str, Any] = {"type": "file", "oid": blob_id(data), "size": len(data), "path": path}
            if len(data) >= repo.lfs:
                entry["oid"] = blob_id(b"pointer of " + data[:64])
                entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            entries.append(entry)
        end = start + self.hub.page
        links = {}
        if end < len(entries):
            path = self.path.partition("?")[0]
            links = {"Link": f'<{self.hub.endpoint}{path}?recursive=True&cursor={end}>; rel="next"'}
        self.send_json(entries[start:end], links)

    def send_content(self, repo: Repo, commit: str, name: str, data: bytes) -> None:
        large = len(data) >= repo.lfs
        etag = hashlib.sha256(data).hexdigest() if large else blob_id(data)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if large and not self.storage:
            headers |= {"X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{etag}"'}
            headers |= {"Location": f"{self.hub.storage}{self.path}", "Content-Length": "0"}
            return self.send_head(302, headers)
        data = self.hub.lie.get(name, data)
        start = 0
        if self.hub.ranges and (asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))):
            start, whole = int(asked[1]), len(data)
            if start >= whole:
                return self.fail(416, "", "Range Not Satisfiable")
            data = data[: int(asked[2]) + 1] if asked[2] else data
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{whole}"
        self.send_head(206 if "Content-Range" in headers else 200, headers | {"Content-Length": str(len(data) - start)})
        if self.command == "GET":
            self.send_body(name, memoryview(data)[start:])

    def send_body(self, name: str, data: memoryview) -> None:
        cut = self.hub.cut(len(data))
        end = len(data) if cut is None else min(cut, len(data))
        for at in range(0, end, self.hub.chunk):
            time.sleep(self.hub.chunk_s)
            piece = data[at : min(at + self.hub.chunk, end)]
            self.hub.sent[name] = self.hub.sent.get(name, 0) + len(piece)
            try:
                self.wfile.write(piece)
            except OSError:  # the client is gone
                self.close_connection = True
                return
        if end < len(data):
            self.close_connection = True

    def send_json(self, value: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        self.send_head(200, {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})})
        self.wfile.write(data)

    def fail(self, status: int, code: str, message: str) -> None:
        self.send_head(status, {"X-Error-Code": code, "X-Error-Message": message, "Content-Length": "0"})

    def send_head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.end_headers()


def blob_id(data: bytes) -> str:
    """Return git's id of a content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
