"""From a video file to the pixels that the cache keeps; nothing else is imported here.

The code fingerprint of this module is part of every cache file: files made by other decoding or resizing code are made
again, files made by this code are kept when a shard starts again.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from viarl.video.format import CacheSettings, VideoError
from viarl.video.reader import Reading, read_frames


def shrink(image: Image.Image, pixels: int) -> Image.Image:
    """Return `image` with its longest side at most `pixels`; never enlarged.

    Source: ViaRL's _preprocess_image: sides truncated to int, nearest neighbour.
    """
    longest = max(image.size)
    if longest <= pixels:
        return image
    factor = pixels / longest
    width, height = int(image.width * factor), int(image.height * factor)
    if min(width, height) < 1:
        raise VideoError(f"is too narrow: {image.width} x {image.height} leaves nothing at {pixels} pixels")
    return image.resize((width, height), resample=Image.Resampling.NEAREST)


@dataclass(frozen=True)
class FrameEncoder:
    """Turns a decoded frame, (H, W, 3) uint8, into what the cache keeps: (selector frame, answerer JPEG)."""

    selector_pixels: int
    answerer_pixels: int
    jpeg_quality: int

    def __call__(self, frame: np.ndarray) -> tuple[np.ndarray, bytes]:
        large = shrink(Image.fromarray(frame), self.answerer_pixels)
        jpeg = io.BytesIO()
        large.save(jpeg, "JPEG", quality=self.jpeg_quality, subsampling=0)
        return np.asarray(shrink(large, self.selector_pixels)), jpeg.getvalue()


def read_encoded(path: Path, settings: CacheSettings, timeout_s: float) -> Reading[tuple[np.ndarray, bytes]]:
    """Read a video's candidate frames as (selector frame (h, w, 3) uint8, answerer JPEG) pairs.

    Raises:
        VideoError: why the video cannot be used.
    """
    encoder = FrameEncoder(settings.selector_pixels, settings.answerer_pixels, settings.jpeg_quality)
    reading = read_frames(path, settings.candidates, encoder, settings.reader, timeout_s)
    shapes = {frame.shape for frame, _ in reading.frames}
    if len(shapes) != 1:
        raise VideoError(f"changes its frame size within the video: {sorted(shapes)}")
    return reading
