"""Video files whose pixels carry their frame number, and the ways in which real files are hard to read."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT, RATE = 128, 64, 25
GOP = "keyint=30:min-keyint=30:scenecut=0:bframes=3:log-level=none"
CLOSED = {"x264-params": GOP}


def picture(number: int) -> np.ndarray:
    """Return (64, 128, 3) uint8: the number's 8 bits as a 4 x 2 grid of dark and bright blocks, with noise."""
    bits = np.array([[number >> (4 * row + column) & 1 for column in range(4)] for row in range(2)])
    blocks = np.kron(np.where(bits, 225, 30), np.ones((32, 32), int))[:, :, None]
    noise = np.random.default_rng(number).integers(-12, 12, (HEIGHT, WIDTH, 3))
    return (blocks + noise).astype(np.uint8)


def number_of(image: np.ndarray, quarter_turns: int = 0) -> int:
    """Read the number back from a picture of any size that was turned counter-clockwise."""
    image = np.rot90(image, -quarter_turns)
    height, width = image.shape[:2]
    bright = [
        image[int((row + 0.5) * height / 2), int((column + 0.5) * width / 4)].mean() > 128
        for row in range(2)
        for column in range(4)
    ]
    return sum(1 << place for place, bit in enumerate(bright) if bit)


def encode(
    path: Path,
    frames: int = 100,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    stamps_ms: Sequence[int] | None = None,
    container: dict[str, str] | None = None,
    rotation: int = 0,
    sound: bool = False,
) -> Path:
    """Write numbered frames 0 .. frames - 1; with `stamps_ms` at these times, else at 25 frames a second."""
    base = Fraction(1, 1000) if stamps_ms else Fraction(1, RATE)
    with av.open(str(path), "w", options=container or {}) as output:
        stream = output.add_stream(codec, rate=RATE, options=CLOSED if options is None else options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = base
        if rotation:
            stream.set_display_rotation(rotation)
        if sound:
            _silence(output, output.add_stream("aac", rate=44100), blocks=-(-frames * 44100 // (RATE * 1024)))
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = stamps_ms[number] if stamps_ms else number, base
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def cut_with_edit_list(source: Path, path: Path, first: int) -> Path:
    """Copy the packets from the keyframe before frame `first` on, hidden by an edit list up to `first`."""
    with av.open(str(source)) as reader, av.open(str(path), "w") as output:
        stream = reader.streams.video[0]
        copy = output.add_stream_from_template(stream)
        step = round(1 / (RATE * stream.time_base))
        begun = False
        for packet in reader.demux(stream):
            if packet.size == 0:
                continue
            begun = begun or (packet.is_keyframe and first - 30 < packet.pts / step <= first)
            if begun:
                packet.pts, packet.dts, packet.stream = packet.pts - first * step, packet.dts - first * step, copy
                output.mux(packet)
    return path


def truncate(source: Path, path: Path, share: float = 0.6) -> Path:
    """Keep the first part of a file."""
    content = source.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def corrupt(source: Path, path: Path) -> Path:
    """Overwrite 2,000 bytes in the middle of a file with noise."""
    content = bytearray(source.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = np.random.default_rng(0).bytes(2000)
    path.write_bytes(content)
    return path


def audio_only(path: Path) -> Path:
    """Write a second of silence."""
    with av.open(str(path), "w") as output:
        _silence(output, output.add_stream("aac", rate=44100), blocks=40)
    return path


def _silence(output: av.container.OutputContainer, stream: av.AudioStream, blocks: int) -> None:
    for _ in range(blocks):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 44100
        output.mux(stream.encode(frame))
    output.mux(stream.encode())
