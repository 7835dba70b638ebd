"""What the frame cache costs and saves, against the authors' way of reading videos.

The clip is generated, with the shape of what the authors train on: 2 minutes of 720p at 30 frames a second, shots of
4 s, an out-of-focus background under a moving camera, sharper moving objects, fresh sensor noise; x264 at its defaults
makes 1 Mbit/s of it. The saving depends on the content: only frames that nothing refers to can be skipped.

Measured is CPU time of this process, every decoder at one thread, in turn on the same file: cache building against
decord's get_batch and Pillow; a training read against what the authors' trainer does for the same video at every step.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np
from PIL import Image, ImageDraw

from viarl.files import sha256_file, write_json
from viarl.items import Video
from viarl.video.cache import FrameCache
from viarl.video.encode import fitted
from viarl.video.format import sample_indices
from viarl.video.overlay import NumberStyle, load_font
from viarl.video.settings import CacheSettings
from viarl.video.writer import cache_video, manifest_record

T = TypeVar("T")
WIDTH, HEIGHT, RATE = 1280, 720, 30
PAPER = CacheSettings(candidates=128, selector_pixels=112, answerer_pixels=896)
NUMBER = NumberStyle(20)
SELECTED = 8
BACKGROUND, OBJECTS = 1.8, 1.4  # softness: a sharp photograph has 1, what is out of focus has more
NOISE = 3.0  # standard deviation of the sensor noise, grey levels
SHOT = 120  # frames from cut to cut
PATHS = np.array([[200, 200], *[[HEIGHT - 220, WIDTH - 220]] * 6])  # how far camera and objects wander, half pixels
READS = 20


def texture(rng: np.random.Generator, height: int, width: int, softness: float) -> np.ndarray:
    """Return (height, width, 3) uint8, a random picture: amplitude falls as frequency ** -softness."""
    down, across = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    amplitude = np.maximum(np.hypot(down, across), 1 / max(height, width)) ** -softness
    shared = rng.standard_normal((height, width))
    layers = []
    for _ in range(3):
        noise = shared + 0.5 * rng.standard_normal((height, width))
        layer = np.fft.irfft2(np.fft.rfft2(noise) * amplitude, s=(height, width))
        layers.append(127 + 50 * layer / layer.std())
    return np.stack(layers, axis=2).clip(0, 255).astype(np.uint8)


def half_steps(picture: np.ndarray) -> list[np.ndarray]:
    """Return a picture shifted by (0, 0), (0, 1/2), (1/2, 0), (1/2, 1/2) pixels: cameras do not move in whole ones."""
    wide = picture.astype(np.uint16)
    down, across = (wide + np.roll(wide, -1, 0)) // 2, (wide + np.roll(wide, -1, 1)) // 2
    both = (down + np.roll(down, -1, 1)) // 2
    return [picture, across.astype(np.uint8), down.astype(np.uint8), both.astype(np.uint8)]


def scene(frames: int, seed: int) -> Iterator[np.ndarray]:
    """Yield (720, 1280, 3) uint8 frames: shots with a wandering camera, moving objects and sensor noise."""
    rng = np.random.default_rng(seed)
    grain = np.clip(rng.normal(0, NOISE, 8_000_000), -12, 12).astype(np.int16)
    size = WIDTH * HEIGHT * 3
    for number in range(frames):
        if number % SHOT == 0:
            world = half_steps(texture(rng, HEIGHT + 200, WIDTH + 200, BACKGROUND))
            objects = [half_steps(texture(rng, side, side, OBJECTS)) for side in rng.integers(60, 220, 6)]
            phases, speeds = rng.uniform(0, 2 * np.pi, (7, 2)), rng.uniform(0.002, 0.01, (7, 2))
        halves = ((1 + np.sin(phases + speeds * number)) * PATHS).astype(int)  # (7, 2), of the camera and the objects
        frame = np.empty((HEIGHT, WIDTH, 3), np.uint8)
        for (y, x), layer in zip(halves.tolist(), [world, *objects], strict=True):
            picture = layer[y % 2 * 2 + x % 2]
            if layer is world:
                frame[:] = picture[y // 2 : y // 2 + HEIGHT, x // 2 : x // 2 + WIDTH]
            else:
                frame[y // 2 : y // 2 + len(picture), x // 2 : x // 2 + len(picture)] = picture
        start = int(rng.integers(len(grain) - size))
        yield np.clip(frame + grain[start : start + size].reshape(frame.shape), 0, 255).astype(np.uint8)


def make_clip(path: Path, unique: int, repeats: int, seed: int = 0) -> None:
    """Write `repeats` times the same `unique` frames as 720p H.264 (x264 defaults) at 25 frames a second."""
    once = path.with_name(f"once_{path.name}")
    with av.open(str(once), "w") as output:
        stream = output.add_stream("libx264", rate=RATE, options={"x264-params": "log-level=none"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for image in scene(unique, seed):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        output.mux(stream.encode())
    with av.open(str(path), "w") as output:
        copy = None
        for repeat in range(repeats):
            with av.open(str(once)) as source:
                original = source.streams.video[0]
                copy = copy or output.add_stream_from_template(original)
                assert original.time_base is not None
                shift = round(repeat * unique / (RATE * original.time_base))
                for packet in source.demux(original):
                    if packet.size and packet.pts is not None and packet.dts is not None:
                        packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, copy
                        output.mux(packet)
    once.unlink()


def by_pillow(image: Image.Image, pixels: int) -> Image.Image:
    """Resize as the authors do; the size is ours, which equals theirs."""
    height, width = fitted(image.height, image.width, pixels)
    return image.resize((width, height), Image.Resampling.NEAREST)


def authors_frames(path: Path) -> list[tuple[Image.Image, Image.Image]]:
    """Decode the candidates and resize them to both sizes as the authors do: decord's get_batch, then Pillow."""
    import decord

    reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
    batch = reader.get_batch(sample_indices(len(reader), PAPER.candidates)).asnumpy()  # (n, H, W, 3)
    large = [by_pillow(Image.fromarray(frame), PAPER.answerer_pixels) for frame in batch]
    return [(image, by_pillow(image, PAPER.selector_pixels)) for image in large]


def authors_numbers(frames: list[tuple[Image.Image, Image.Image]]) -> None:
    """Draw a number on each selector frame, a call of Pillow each, with the font loaded once."""
    for number, (_, small) in enumerate(frames):
        ImageDraw.Draw(small).text((60, 36), str(number), font=load_font(NUMBER.pixels), fill="red")


def timed(seconds: list[float], action: Callable[[], T]) -> T:
    """Run `action` and append the CPU seconds (user + system, all threads) that this process spent on it."""
    start = time.process_time()
    result = action()
    seconds.append(time.process_time() - start)
    return result


def measure(folder: Path, unique: int = 240, repeats: int = 15, rounds: int = 3) -> dict[str, Any]:
    """Measure the frame cache on a clip of `unique * repeats` frames written into `folder`; ImportError without decord.

    `cpu_ratio`: CPU of building the cache / of decoding with decord and resizing with Pillow; `read_speedup`: CPU of
    the authors' work at each step / of a training read. Seconds are the least of `rounds`: other processes only add.
    """
    path, frames = folder / "clip.mp4", folder / "frames"
    make_clip(path, unique, repeats)
    video = Video("clip", str(path), path.stat().st_size, sha256_file(path))
    building, decoding, drawing, reading = [list[float]() for _ in range(4)]
    for _ in range(rounds):
        pictures = timed(decoding, lambda: authors_frames(path))
        timed(drawing, partial(authors_numbers, pictures))
        del pictures
        shutil.rmtree(frames, ignore_errors=True)
        entry = timed(building, lambda: cache_video(video, frames, PAPER, 600.0))
    write_json(frames / "0.json", manifest_record(0, PAPER, {"clip": entry}, {}))
    cache, rng = FrameCache([frames / "0.json"], NUMBER), np.random.default_rng(0)
    for _ in range(READS):
        picks = rng.choice(entry["n"], SELECTED, replace=False).tolist()
        # what a training step reads of a video: the selector's frames with numbers, the selected ones in full size
        timed(reading, lambda: (cache.selector_frames("clip"), cache.answerer_frames("clip", picks)))  # noqa: B023
    return {
        "cpu_ratio": min(building) / min(decoding),
        "read_speedup": (min(decoding) + min(drawing)) / min(reading),
        "build_cpu_s": min(building),
        "decord_and_pillow_cpu_s": min(decoding),
        "authors_step_cpu_s": min(decoding) + min(drawing),
        "training_read_cpu_s": min(reading),
        "clip": f"{WIDTH}x{HEIGHT} H.264 at {RATE} frames/s",
        **{"clip_s": entry["duration"], "clip_mb": video.size / 1e6},
        "cache_mb": (frames / entry["file"]).stat().st_size / 1e6,
        **{"frames": entry["n"], "selected": SELECTED, "threads": 1},
    }
