"""Making the frame cache: one file a video, written whole or not at all, and kept as long as it is the right one."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from viarl.files import atomic_path, sha256_file
from viarl.identity import fingerprint
from viarl.items import Video, check_id
from viarl.video.container import Reading, check_there
from viarl.video.encode import read_encoded
from viarl.video.format import VideoError
from viarl.video.settings import CacheSettings


@cache
def decoding_code() -> str:
    """Return the fingerprint of the code that turns a file into pixels."""
    return fingerprint("viarl.video.encode")


def write_cached(path: Path, reading: Reading[tuple[np.ndarray, bytes]], identity: dict[str, str]) -> dict[str, str]:
    """Write one video's cache file (format: `viarl.video.cache`) atomically and return its header."""
    jpegs = [jpeg for _, jpeg in reading.frames]
    tensors = {
        "selector": np.stack([frame for frame, _ in reading.frames]),  # (n, h, w, 3)
        "answerer": np.frombuffer(b"".join(jpegs), np.uint8),
        "offsets": np.cumsum([0, *map(len, jpegs)], dtype=np.int64),  # (n + 1,)
        "indices": reading.indices,
        "pts": reading.pts,
        "times": reading.times,
    }
    lengths = {"n": str(len(jpegs)), "total": str(reading.total), "fps": repr(reading.fps)}
    rest = {
        "duration": repr(reading.duration),
        "time_base": str(reading.time_base),
        "how": reading.how,
        "notes": json.dumps(reading.notes),
    }
    header = identity | lengths | rest
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=header)
    return header


@contextmanager
def _reading_source() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise VideoError(f"cannot be read ({error.strerror}): change its permissions or copy it again") from error


@_reading_source()
def _state(source: Path) -> tuple[str, str]:
    """Return size and time of the last change, as the header of a cache file holds them."""
    found = source.stat()
    return str(found.st_size), str(found.st_mtime_ns)


def cache_video(video: Video, folder: Path, settings: CacheSettings, timeout_s: float) -> dict[str, Any]:
    """Cache one video below `folder`, unless its file is there already, and return its entry in the manifest.

    The source as it is now counts, whatever videos.jsonl states: a cache file is kept if it was made from a file of
    this size and time, or otherwise of this content. Errors: VideoError.
    """
    source, path = Path(video.path), folder / "videos" / f"{check_id(video.id, 'frame cache')}.safetensors"
    check_there(source)
    wanted = {"settings": settings.fingerprint(), "code": decoding_code()}
    header: dict[str, str] = {}
    with suppress(FileNotFoundError, SafetensorError), safe_open(path, "numpy") as handle:
        header = handle.metadata() or {}
    usable = all(header.get(name) == value for name, value in wanted.items())
    size, time_ns = _state(source)
    sha256, made = video.sha256, tuple(header.get(name) for name in ("sha256_source", "size", "mtime_ns"))
    if not usable or (sha256, size, time_ns) != made:
        with _reading_source():
            sha256 = sha256_file(source)
    if not usable or header.get("sha256_source") != sha256:
        reading = read_encoded(source, settings, timeout_s)
        if _state(source) != (size, time_ns):
            raise VideoError("was changed while it was read: run the job again")
        identity = {"sha256_source": sha256, "size": size, "mtime_ns": time_ns, **wanted}
        header = write_cached(path, reading, identity)
    source_of = {"file": path.relative_to(folder).as_posix(), "sha256_source": sha256, "size": int(size)}
    numbers = {"n": int, "total": int, "fps": float, "duration": float, "how": str}
    stated = {name: kind(header[name]) for name, kind in numbers.items()}
    return source_of | stated | {"notes": json.loads(header["notes"])}


def manifest_record(
    shard: int, settings: CacheSettings, videos: dict[str, dict[str, Any]], bad: dict[str, str]
) -> dict[str, Any]:
    """Return a shard's manifest: its settings, the entries of its videos, and the bad ones with reasons."""
    return {"shard": shard, "settings": asdict(settings), "videos": videos, "bad": bad}
