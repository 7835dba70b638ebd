"""Making the frame cache: one file a video, written whole or not at all, and kept as long as it is the right one."""

from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from viarl.files import atomic_path, sha256_file
from viarl.fingerprint import fingerprint
from viarl.items import Video, check_id
from viarl.video.encode import read_encoded
from viarl.video.format import CacheSettings, VideoError
from viarl.video.reader import Reading

FOLDER = "videos"


@cache
def decoding_code() -> str:
    """Return the fingerprint of the code that turns a file into pixels."""
    return fingerprint("viarl.video.encode")


def cached_path(folder: Path, video: str) -> Path:
    """Return the cache file of a video; ValueError where the id could leave the folder."""
    return folder / f"{check_id(video, 'frame cache')}.safetensors"


def read_header(path: Path) -> dict[str, str]:
    """Return the header of a cache file; empty where there is no readable one."""
    try:
        with safe_open(path, "numpy") as handle:
            return handle.metadata() or {}
    except (FileNotFoundError, SafetensorError):
        return {}


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
    header = {
        **identity,
        "n": str(len(jpegs)),
        "total": str(reading.total),
        "fps": repr(reading.fps),
        "duration": repr(reading.duration),
        "time_base": str(reading.time_base),
        "how": reading.how,
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=header)
    return header


def cache_video(video: Video, folder: Path, settings: CacheSettings, timeout_s: float) -> dict[str, Any]:
    """Cache one video below `folder`, unless its file is there already, and return its entry in the manifest.

    Raises:
        VideoError: why the video cannot be used.
    """
    source, path = Path(video.path), cached_path(folder / FOLDER, video.id)
    if not source.is_file():
        raise VideoError(f"is not there: {source} does not exist")
    size = source.stat().st_size
    if size != video.size:
        raise VideoError(f"has {size} bytes where videos.jsonl states {video.size}: make that file again")
    identity = {
        "sha256_source": video.sha256,
        "size": str(size),
        "settings": settings.key,
        "code": decoding_code(),
    }
    header = read_header(path)
    if any(header.get(name) != value for name, value in identity.items()):
        if sha256_file(source) != video.sha256:
            raise VideoError("has another sha256 than videos.jsonl states: make that file again")
        header = write_cached(path, read_encoded(source, settings, timeout_s), identity)
    return {
        "file": path.relative_to(folder).as_posix(),
        "sha256_source": header["sha256_source"],
        "size": size,
        "n": int(header["n"]),
        "total": int(header["total"]),
        "fps": float(header["fps"]),
        "duration": float(header["duration"]),
        "how": header["how"],
    }


def manifest_record(
    shard: int, settings: CacheSettings, videos: dict[str, dict[str, Any]], bad: dict[str, str]
) -> dict[str, Any]:
    """Return a shard's manifest: its settings, the entries of its videos, and the bad ones with reasons."""
    return {"shard": shard, "settings": asdict(settings), "videos": videos, "bad": bad}
