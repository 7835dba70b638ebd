"""The frame cache: every candidate frame of a video in one file, decoded once and read in milliseconds.

A video's file is a safetensors file (n candidate frames):

    selector  (n, h, w, 3) uint8   selector frames, raw, WITHOUT numbers: those are drawn on load
    answerer  (bytes,) uint8       answerer frames as JPEG, one behind the other
    offsets   (n + 1,) int64       where each of them starts
    indices   (n,) int64           frame numbers within the video
    pts       (n,) int64           presentation stamps, in units of the header's time_base
    times     (n,) float64         seconds since the container's start

and its header holds the source's size and sha256, the settings' key, the decoding code's fingerprint, fps, duration,
total, time_base, how it was read, and notes on what was done to it. JPEG is 4:4:4: 4:2:0 would fade saturated colours.

A shard's manifest lists the files, and the videos that cannot be used with their reasons.
"""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import SafetensorError, safe_open

from viarl.faults import listed
from viarl.files import read_json, sha256_json
from viarl.video.format import VideoError
from viarl.video.overlay import NumberStyle, number_fits, with_numbers
from viarl.video.settings import CacheSettings


class FrameCache:
    """Read access to the cached frames of one or more shards; safe to share between processes (nothing stays open).

    `number`: how numbers are drawn on selector frames, if at all. ValueError for a damaged or contradictory manifest.
    """

    def __init__(self, manifests: Sequence[Path], number: NumberStyle | None = None) -> None:
        self.number = number
        self.bad: dict[str, str] = {}
        self._manifests = manifests
        self._entries: dict[str, tuple[Path, Path, dict[str, Any]]] = {}
        self._codes: dict[Path, str] = {}  # fingerprint of the decoding code, by file
        for manifest in manifests:
            self._add(manifest)

    def _add(self, manifest: Path) -> None:
        content = read_json(manifest)
        if not isinstance(content, dict) or not {"settings", "videos", "bad"} <= set(content):
            raise ValueError(f"{manifest} is not a manifest of the frame cache; delete it and run cache_frames again")
        self.bad.update(content["bad"])
        key = CacheSettings(**content["settings"]).fingerprint()
        folder = manifest.parent.resolve()
        for video, entry in content["videos"].items():
            path = (folder / entry["file"]).resolve()
            if not path.is_relative_to(folder):
                raise ValueError(f"{manifest}: the file {entry['file']!r} of video {video!r} lies outside its folder")
            before = self._entries.get(video)
            if before and before[2]["sha256_source"] != entry["sha256_source"]:
                raise ValueError(f"{manifest} and {before[1]} hold different videos under the id {video!r}; rename one")
            self._entries[video] = (path, manifest, {**entry, "settings": key})

    def __contains__(self, video: str) -> bool:
        return video in self._entries

    def videos(self) -> list[str]:
        """Return the ids of all usable videos, sorted."""
        return sorted(self._entries)

    def check_usable(self) -> None:
        """Raise ValueError, with the first reasons, where no video can be used: nothing is left to ask about."""
        if not self._entries:
            named = listed([f"  {video}: {reason}" for video, reason in self.bad.items()])
            where = ", ".join(sorted({str(manifest.parent) for manifest in self._manifests}))
            what = f"{where}: none of the {len(self.bad)} videos can be used. Repair or replace them"
            raise ValueError(f"{what}:\n{named}")

    def _entry(self, video: str) -> tuple[Path, Path, dict[str, Any]]:
        if video in self._entries:
            return self._entries[video]
        if video in self.bad:
            raise VideoError(f"video {video!r} has no frames: it {self.bad[video]}")
        raise VideoError(f"video {video!r} is in none of the manifests; run cache_frames for its set")

    def _open(self, video: str) -> Any:
        path, manifest, entry = self._entry(video)
        remedy = f"delete {manifest} so that cache_frames makes it again"
        frames = f"{path}: the cached frames of {video!r}"
        try:
            handle = safe_open(path, "numpy")
        except (FileNotFoundError, SafetensorError) as error:
            raise ValueError(f"{frames} are gone or damaged ({error}); {remedy}") from error
        header = handle.metadata() or {}
        if any(header.get(name) != entry[name] for name in ("sha256_source", "settings")):
            raise ValueError(f"{frames} are not those of the manifest; {remedy}")
        return handle

    def _tensor(self, video: str, name: str) -> np.ndarray:
        with self._open(video) as handle:
            return np.asarray(handle.get_tensor(name))

    def count(self, video: str) -> int:
        """Return how many candidate frames the video has, at most N."""
        return int(self._entry(video)[2]["n"])

    def duration(self, video: str) -> float:
        """Return the video's duration in seconds."""
        return float(self._entry(video)[2]["duration"])

    def fingerprint(self, video: str) -> str:
        """Return the sha256 of the source video, for caches that depend on its content."""
        return str(self._entry(video)[2]["sha256_source"])

    def identity(self, video: str) -> str:
        """Return what the cached frames depend on: the source video, the settings, the decoding code."""
        path, _, entry = self._entry(video)
        if path not in self._codes:
            with self._open(video) as handle:
                self._codes[path] = str((handle.metadata() or {}).get("code"))
        return sha256_json([entry["sha256_source"], entry["settings"], self._codes[path]])

    def times(self, video: str) -> np.ndarray:
        """Return the candidates' times in seconds since the container's start, (n,) float64."""
        return self._tensor(video, "times")

    def raw_frames(self, video: str) -> np.ndarray:
        """Return the selector frames without numbers, (n, h, w, 3) uint8; the caller may write to it."""
        return self._tensor(video, "selector")

    def selector_frames(self, video: str) -> np.ndarray:
        """Return the selector frames with their numbers 0 .. n - 1, (n, h, w, 3) uint8."""
        frames = self.raw_frames(video)
        if self.number is None:
            return frames
        count, height, width = frames.shape[:3]
        if not number_fits(count - 1, height, width, self.number.pixels):
            where = f"at {self.number.pixels} pixels into frames of {width} x {height} and is cut"
            remedy = "lower frames.number_pixels or raise frames.selector_pixels"
            warnings.warn(f"number {count - 1} does not fit {where}: {remedy}", stacklevel=2)
        return with_numbers(frames, self.number)

    def answerer_frames(self, video: str, indices: Sequence[int]) -> list[np.ndarray]:
        """Return the answerer frames at `indices` (any order, repeats allowed), each (H, W, 3) uint8; or IndexError."""
        return [decode_jpeg(data) for data in self.answerer_jpegs(video, indices)]

    def answerer_jpegs(self, video: str, indices: Sequence[int]) -> list[np.ndarray]:
        """Return the stored JPEGs of the answerer frames at `indices`, each (bytes,) uint8; else as answerer_frames."""
        count = self.count(video)
        if outside := [int(index) for index in indices if not 0 <= index < count]:
            raise IndexError(f"frames {outside} of video {video!r} do not exist: it has {count} candidate frames")
        with self._open(video) as handle:
            offsets = handle.get_tensor("offsets")
            stored = handle.get_slice("answerer")
            return [stored[int(offsets[index]) : int(offsets[index + 1])] for index in indices]


def decode_jpeg(data: np.ndarray) -> np.ndarray:
    """Return the picture of a JPEG given as (bytes,) uint8, as (H, W, 3) uint8."""
    with Image.open(io.BytesIO(data.tobytes())) as image:
        return np.asarray(image)
