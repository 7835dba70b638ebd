"""From a video file to the pixels that the cache keeps; nothing else is imported here.

The code fingerprint of this module is part of every cache file: files made by other code are made again.
"""

import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from viarl.video.container import Reading
from viarl.video.format import VideoError
from viarl.video.reader import read_frames
from viarl.video.settings import CacheSettings


def fitted(height: int, width: int, pixels: int) -> tuple[int, int]:
    """Return (height, width) with the longest side at most `pixels`, truncated, as in ViaRL's _preprocess_image."""
    longest = max(height, width)
    if longest <= pixels:
        return height, width
    factor = pixels / longest
    if min(int(height * factor), int(width * factor)) < 1:
        raise VideoError(f"is too narrow: {width} x {height} leaves nothing at {pixels} pixels")
    return int(height * factor), int(width * factor)


@lru_cache(maxsize=64)
def nearest(length: int, wanted: int) -> np.ndarray:
    """Return which of `length` rows Pillow's nearest neighbour keeps for `wanted` rows, (wanted,) int."""
    ramp = Image.fromarray(np.arange(length, dtype=np.int32)[:, None])
    return np.asarray(ramp.resize((1, wanted), Image.Resampling.NEAREST))[:, 0].astype(np.intp)


def shrink(frame: np.ndarray, pixels: int) -> np.ndarray:
    """Return a frame, (H, W, 3) uint8, with its longest side at most `pixels`, by Pillow's nearest neighbour."""
    height, width = fitted(frame.shape[0], frame.shape[1], pixels)
    if (height, width) == frame.shape[:2]:
        return frame
    rows, columns = nearest(frame.shape[0], height), nearest(frame.shape[1], width)
    return frame[rows].take(columns, axis=1)


@dataclass(frozen=True)
class FrameEncoder:
    """Turns a decoded frame, (H, W, 3) uint8, into what the cache keeps: (selector frame, answerer JPEG)."""

    selector_pixels: int
    answerer_pixels: int
    jpeg_quality: int

    def __call__(self, frame: np.ndarray) -> tuple[np.ndarray, bytes]:
        large = shrink(frame, self.answerer_pixels)
        jpeg = io.BytesIO()
        Image.fromarray(large).save(jpeg, "JPEG", quality=self.jpeg_quality, subsampling=0)
        return shrink(large, self.selector_pixels), jpeg.getvalue()


def read_encoded(path: Path, settings: CacheSettings, timeout_s: float) -> Reading[tuple[np.ndarray, bytes]]:
    """Read a video's candidate frames as (selector frame (h, w, 3) uint8, answerer JPEG) pairs; or else VideoError."""
    encoder = FrameEncoder(settings.selector_pixels, settings.answerer_pixels, settings.jpeg_quality)
    return read_frames(path, settings.candidates, encoder, settings.reader, timeout_s)
