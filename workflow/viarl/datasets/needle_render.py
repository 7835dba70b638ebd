"""Pixels of the needle videos: draw a scene, encode it as H.264, and the round trip in memory for pretraining."""

from collections.abc import Callable
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image, ImageDraw

from viarl.datasets.needle import FRAME_PIXELS, FRAME_RATE, Scene

RGB = {
    "red": (205, 35, 35),
    "green": (25, 140, 45),
    "blue": (35, 65, 215),
    "yellow": (205, 165, 10),
    "purple": (135, 35, 165),
    "cyan": (15, 160, 180),
}
_SUPERSAMPLING = 4
_GRID = np.arange(FRAME_PIXELS, dtype=np.float32)
_CORNERS = -np.pi / 2 + np.pi / 5 * np.arange(10)  # of a star, in radians
_POLYGONS = {
    "square": [(-0.78, -0.78), (0.78, -0.78), (0.78, 0.78), (-0.78, 0.78)],
    "triangle": [(0.0, -0.95), (0.92, 0.7), (-0.92, 0.7)],
    "star": [(float(r * np.cos(a)), float(r * np.sin(a))) for r, a in zip([1.0, 0.42] * 5, _CORNERS, strict=True)],
    "cross": [
        (-0.3, -0.95),
        (0.3, -0.95),
        (0.3, -0.3),
        (0.95, -0.3),
        (0.95, 0.3),
        (0.3, 0.3),
        (0.3, 0.95),
        (-0.3, 0.95),
        (-0.3, 0.3),
        (-0.95, 0.3),
        (-0.95, -0.3),
        (-0.3, -0.3),
    ],
}


@lru_cache(maxsize=256)
def shape_mask(shape: str, size: int) -> np.ndarray:
    """Coverage (size, size) float32 in 0..1 of a shape that fills a square of `size` pixels."""
    large, centre = size * _SUPERSAMPLING, size * _SUPERSAMPLING / 2
    image = Image.new("L", (large, large))
    draw = ImageDraw.Draw(image)
    if shape in _POLYGONS:
        draw.polygon([(centre + x * centre, centre + y * centre) for x, y in _POLYGONS[shape]], fill=255)
    elif shape in ("circle", "ball", "ring", "moon"):
        draw.ellipse((0, 0, large - 1, large - 1), fill=255)
        if shape == "ring":
            hole = large * 0.25
            draw.ellipse((hole, hole, large - 1 - hole, large - 1 - hole), fill=0)
        if shape == "moon":
            draw.ellipse((large * 0.36, -large * 0.08, large * 1.2, large * 0.76), fill=0)
    elif shape == "bar":
        draw.rectangle((0, large * 0.32, large, large * 0.68), fill=255)
    else:
        raise ValueError(f"no drawing for the shape {shape!r}")
    small = np.asarray(image, dtype=np.float32).reshape(size, _SUPERSAMPLING, size, _SUPERSAMPLING)
    return small.mean((1, 3)) / 255


def _paste(frame: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int], x: float, y: float) -> None:
    """Blend a colour into a (H, W, 3) float frame where `mask`, centred at x, y and cut at the border, covers it."""
    height, width = mask.shape
    left, top = round(x - width / 2), round(y - height / 2)
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + width, frame.shape[1]), min(top + height, frame.shape[0])
    if x0 >= x1 or y0 >= y1:
        return
    cover = mask[y0 - top : y1 - top, x0 - left : x1 - left, None]
    part = frame[y0:y1, x0:x1]
    part += cover * (np.asarray(colour, dtype=np.float32) - part)


def _gradient(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi) + time * rng.uniform(-0.05, 0.05)
    return (np.cos(angle) * (_GRID[None, None] / 28 - 1) + np.sin(angle) * (_GRID[None, :, None] / 28 - 1)) / 2


def _stripes(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    angle, wave = rng.uniform(0, np.pi), rng.uniform(0.3, 0.8)
    along = np.cos(angle) * _GRID[None, None] + np.sin(angle) * _GRID[None, :, None]
    return np.sin(along * wave + time * rng.uniform(-0.5, 0.5)) * 0.7


def _blobs(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    total = np.zeros((len(time), FRAME_PIXELS, FRAME_PIXELS), dtype=np.float32)
    for _ in range(3):
        x, y = (rng.uniform(0, 56) + time * rng.uniform(-0.8, 0.8) for _ in range(2))
        total += np.exp(-((_GRID[None, None] - x) ** 2) / 200) * np.exp(-((_GRID[None, :, None] - y) ** 2) / 200)
    return total * 1.5 - 0.7


def _checks(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    wave = rng.uniform(0.25, 0.5)
    dx, dy = rng.uniform(-0.3, 0.3, 2)
    across, down = np.sin(_GRID[None, None] * wave + time * dx), np.sin(_GRID[None, :, None] * wave + time * dy)
    return np.clip(4 * across * down, -0.6, 0.6)


def _rings(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    x, y = rng.uniform(0, 56, 2)
    distance = np.hypot(_GRID[None, None] - x, _GRID[None, :, None] - y)
    return np.sin(distance * rng.uniform(0.3, 0.7) - time * rng.uniform(0.1, 0.5)) * 0.8


def _plaid(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    wave, drift = rng.uniform(0.3, 0.9, 2), rng.uniform(-0.4, 0.4, 2)
    across = np.sin(_GRID[None, None] * wave[0] + time * drift[0])
    down = np.sin(_GRID[None, :, None] * wave[1] + time * drift[1])
    return 0.5 * (across + down)


def _rain(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    phase, speed = rng.uniform(0, 56, FRAME_PIXELS), rng.uniform(0.5, 2.0, FRAME_PIXELS)
    height = (_GRID[None, :, None] - phase[None, None] - time * speed[None, None]) % 28
    return np.where(height < 6, 0.9, -0.4).astype(np.float32)


_DRAWN: tuple[Callable[..., np.ndarray], ...] = (_gradient, _stripes, _blobs, _checks, _rings, _plaid, _rain)
_BACKGROUNDS = {drawn.__name__[1:]: drawn for drawn in _DRAWN}


def _background(scene: Scene) -> np.ndarray:
    """(T, H, W, 3) float32: a moving pattern between two dull colours, with grain."""
    rng = np.random.default_rng(scene.texture)
    time = np.arange(scene.frames, dtype=np.float32)[:, None, None] * 64 / scene.frames
    pattern = np.clip(_BACKGROUNDS[scene.background](rng, time), -1, 1).astype(np.float32) * 0.5 + 0.5
    tint = rng.uniform(-22, 22, (2, 3)) + rng.uniform([[30], [95]], [[80], [175]])
    dark, light = tint.astype(np.float32)
    grain = rng.normal(0, 4, (8, FRAME_PIXELS, FRAME_PIXELS)).astype(np.float32)
    pattern = pattern[..., None] * (light - dark) + dark
    return pattern + grain[np.arange(scene.frames) % 8, ..., None]


def render(scene: Scene) -> np.ndarray:
    """Draw a scene: (T, 56, 56, 3) uint8 RGB. Distractors lie behind the cards."""
    video = _background(scene)
    for thing in scene.distractors:
        mask = shape_mask(thing.shape, thing.size)
        for frame in range(thing.first, thing.last + 1):
            step = frame - thing.first
            _paste(video[frame], mask, RGB[thing.colour], thing.x + step * thing.dx, thing.y + step * thing.dy)
    for card in scene.cards:
        plate = np.ones((card.size, card.size), dtype=np.float32)
        border = np.ones((card.size + 2, card.size + 2), dtype=np.float32)
        glyph = shape_mask(card.shape, 2 * round(0.42 * card.size))
        for frame in range(card.first, card.last + 1):
            step = frame - card.first
            x, y = round(card.x + step * card.dx), round(card.y + step * card.dy)
            _paste(video[frame], border, (20, 20, 20), x, y)
            _paste(video[frame], plate, RGB[card.colour], x, y)
            _paste(video[frame], glyph, (250, 250, 250), x, y)
    return np.clip(video, 0, 255).round().astype(np.uint8)


def encode(frames: np.ndarray, target: Path | BytesIO, quality: int) -> None:
    """Write (T, H, W, 3) uint8 RGB as an H.264 mp4 (x264, constant rate factor `quality`), always the same bytes."""
    reformat = VideoReformatter().reformat  # one for the video: setting up a conversion costs more than doing it
    with av.open(target if isinstance(target, BytesIO) else str(target), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FRAME_RATE)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.thread_count = "yuv420p", 1
        # x264's macroblock tree rounds differently from run to run (its result depends on memory alignment)
        stream.options = {"crf": str(quality), "preset": "veryfast", "g": "32", "x264-params": "mbtree=0"}
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            container.mux(stream.encode(reformat(picture, format="yuv420p")))
        container.mux(stream.encode())


def decode(source: Path | BytesIO) -> np.ndarray:
    """Read a whole video of ours as (T, H, W, 3) uint8 RGB."""
    reformat = VideoReformatter().reformat
    with av.open(source if isinstance(source, BytesIO) else str(source), "r") as container:
        container.streams.video[0].thread_count = 1
        return np.stack([reformat(frame, format="rgb24").to_ndarray() for frame in container.decode(video=0)])


def filmed(scene: Scene) -> np.ndarray:
    """Return a scene's frames after a real H.264 round trip in memory, (T, 56, 56, 3) uint8: no file, same pixels."""
    buffer = BytesIO()
    encode(render(scene), buffer, scene.quality)
    buffer.seek(0)
    return decode(buffer)
