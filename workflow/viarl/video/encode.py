"""From a video file to the pixels that the cache keeps; nothing else is imported here.

The code fingerprint of this module is part of every cache file: files made by other code are made again.
"""

import io
from dataclasses import dataclass
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


def shrink(frame: np.ndarray, pixels: int) -> np.ndarray:
    """Return a frame, (H, W, 3) uint8, with its longest side at most `pixels`, by Pillow's nearest neighbour."""
    return np.asarray(_shrunk(Image.fromarray(frame), pixels))


def _shrunk(image: Image.Image, pixels: int) -> Image.Image:
    height, width = fitted(image.height, image.width, pixels)
    return image if (width, height) == image.size else image.resize((width, height), Image.Resampling.NEAREST)


@dataclass(frozen=True)
class FrameEncoder:
    """Turns a decoded frame, (H, W, 3) uint8, into what the cache keeps: (selector frame, answerer JPEG)."""

    selector_pixels: int
    answerer_pixels: int
    jpeg_quality: int

    def __call__(self, frame: np.ndarray) -> tuple[np.ndarray, bytes]:
        large = _shrunk(Image.fromarray(frame), self.answerer_pixels)
        jpeg = io.BytesIO()
        large.save(jpeg, "JPEG", quality=self.jpeg_quality, subsampling=0)
        return np.asarray(_shrunk(large, self.selector_pixels)), jpeg.getvalue()


def read_encoded(path: Path, settings: CacheSettings, timeout_s: float) -> Reading[tuple[np.ndarray, bytes]]:
    """Read a video's candidate frames as (selector frame (h, w, 3) uint8, answerer JPEG) pairs; or else VideoError."""
    encoder = FrameEncoder(settings.selector_pixels, settings.answerer_pixels, settings.jpeg_quality)
    return read_frames(path, settings.candidates, encoder, settings.reader, timeout_s)
