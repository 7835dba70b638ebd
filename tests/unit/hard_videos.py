"""Video files whose pixels carry their frame number, and the ways in which real files are hard to read."""

import struct
from collections.abc import Callable, Sequence
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
    mirror: str = "",
    sound: bool = False,
    first: int = 0,
    ratio: Fraction = Fraction(1),
    transfer: int = 0,
) -> Path:
    """Write numbered frames, `frames` from `first` on; with `stamps_ms` at these times, else at 25 frames a second.

    `mirror`: hflip or vflip after the rotation; `ratio`: width / height of a pixel; `transfer`: FFmpeg's number of it.
    """
    base = Fraction(1, 1000) if stamps_ms else Fraction(1, RATE)
    with av.open(str(path), "w", options=container or {}) as output:
        stream = output.add_stream(codec, rate=RATE, options=CLOSED if options is None else options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = base
        stream.codec_context.sample_aspect_ratio = ratio
        stream.codec_context.color_trc = transfer or 2
        if rotation or mirror:
            stream.set_display_rotation(rotation, **({mirror: True} if mirror else {}))
        if sound:
            _silence(output, output.add_stream("aac", rate=44100), blocks=-(-frames * 44100 // (RATE * 1024)))
        for number in range(first, first + frames):
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


def copy_packets(
    source: Path, path: Path, change: Callable[[int, av.Packet], bytes | None] = lambda number, packet: bytes(packet)
) -> Path:
    """Copy the packets as `change` returns them, given their number; None leaves one out."""
    with av.open(str(source)) as reader, av.open(str(path), "w") as output:
        stream = reader.streams.video[0]
        copy = output.add_stream_from_template(stream)
        for number, packet in enumerate(packet for packet in reader.demux(stream) if packet.size):
            if (content := change(number, packet)) is not None:
                new = av.Packet(content)
                new.pts, new.dts, new.time_base, new.is_keyframe = (
                    packet.pts,
                    packet.dts,
                    packet.time_base,
                    packet.is_keyframe,
                )
                new.stream = copy
                output.mux(new)
    return path


def two_sizes(path: Path, codec: str = "libvpx") -> Path:
    """Write 20 numbered frames of 128 x 64, then 20 of 64 x 32, as video calls do, by two encoders into one stream."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for first, size in ((0, 1), (20, 2)):
            encoder = av.CodecContext.create(codec, "w")
            encoder.width, encoder.height, encoder.pix_fmt = WIDTH // size, HEIGHT // size, "yuv420p"
            encoder.time_base = Fraction(1, RATE)
            frames = [
                av.VideoFrame.from_ndarray(picture(number)[::size, ::size], format="rgb24")
                for number in range(first, first + 20)
            ]
            for number, frame in enumerate(frames, first):
                frame.pts, frame.time_base = number, Fraction(1, RATE)
            for packet in [one for frame in [*frames, None] for one in encoder.encode(frame)]:
                packet.stream = stream
                output.mux(packet)
    return path


def stated_longer(source: Path, path: Path, seconds: float) -> Path:
    """Copy a Matroska file whose header then states another duration of the file and of its stream."""
    content = source.read_bytes()
    at = content.index(b"\x44\x89\x88") + 3  # the element Duration, 8 bytes, in milliseconds
    content = content[:at] + struct.pack(">d", seconds * 1000) + content[at + 8 :]
    if (tag := content.find(b"DURATION")) >= 0:
        start = content.index(b"00:00:", tag)
        content = content[:start] + f"00:00:{seconds:012.9f}".encode() + content[start + 18 :]
    path.write_bytes(content)
    return path


def packed(path: Path) -> Path:
    """Write MPEG-4 in AVI as DivX did: each B-frame in the packet of the frame that it needs, then an empty picture."""
    plain = encode(
        path.with_suffix(".plain.avi"),
        codec="mpeg4",
        options={"bf": "1", "b_strategy": "0", "sc_threshold": "1000000000"},
    )
    with av.open(str(plain)) as reader:
        packets = [bytes(packet) for packet in reader.demux(reader.streams.video[0]) if packet.size]
    kinds = [packet[packet.index(b"\0\0\1\xb6") + 4] >> 6 for packet in packets]  # 0, 1, 2: I, P, B
    empty = b"\0\0\1\xb6" + (0b01 << 14 | 1 << 12 | 1 << 6).to_bytes(2, "big")  # P, time 0, not coded
    contents = {}
    for number, kind in enumerate(kinds):
        if kind == 2:
            contents[number - 1] += packets[number]
        contents[number] = empty if kind == 2 else packets[number]
    mark = b"\0\0\1\xb2DivX503b1393p"
    at = contents[0].index(b"\0\0\1\xb6")
    contents[0] = contents[0][:at] + mark + contents[0][at:]
    return copy_packets(plain, path, lambda number, packet: contents[number])


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
