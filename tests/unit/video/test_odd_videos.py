"""Valid files whose containers mislead: the decoder's frames are used, shown as a player shows them, and said so."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import hard_videos as hard
from viarl.video.container import Reading
from viarl.video.format import VideoError, sample_indices
from viarl.video.picture import Pictures
from viarl.video.reader import read_frames

N = 32
REORDERED = {"x264-params": "bframes=8:b-adapt=0:keyint=50:min-keyint=50:scenecut=0:log-level=none"}
OPEN = {
    "libx264": {"x264-params": hard.GOP + ":open-gop=1"},
    "libx265": {"x265-params": "keyint=30:bframes=4:open-gop=1:log-level=none"},
}
FIELDS = {"x264-params": hard.GOP + ":tff=1"}


def read(path: Path, reader: str = "pyav") -> Reading[np.ndarray]:
    return read_frames(path, N, np.asarray, reader)


def hidden(number: int, packet: av.Packet) -> bytes:
    """Every tenth packet of VP8 without its flag that it is shown."""
    content = bytes(packet)
    return bytes([content[0] & ~0x10]) + content[1:] if number % 10 == 5 else content


def joined(path: Path, firsts: list[int], options: dict[str, str]) -> Path:
    """Three segments of 40 frames, each encoded by itself, one file behind the other."""
    parts = [
        hard.encode(path.with_name(f"{at}.ts"), 40, options=options, first=first) for at, first in enumerate(firsts)
    ]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def from_second_keyframe(path: Path, codec: str) -> Path:
    """What a cut without encoding leaves of open groups of pictures: some first pictures refer to what is gone."""
    source = hard.encode(path.with_name("source.mp4"), codec=codec, options=OPEN[codec])
    keys: list[int] = []

    def behind(number: int, packet: av.Packet) -> bytes | None:
        keys.extend([number] if packet.is_keyframe else [])
        return bytes(packet) if len(keys) > 1 else None

    return hard.copy_packets(source, path, behind)


def without(path: Path, first: float = 0.0, last: float = 1.0) -> Path:
    """A part of a recording in a container that may be cut anywhere."""
    content = hard.encode(path.with_name("whole.ts")).read_bytes()
    path.write_bytes(content[int(len(content) * first) : int(len(content) * last)])
    return path


def twice(path: Path) -> Path:
    """A recording whose picture begins a second after its sound, two times one behind the other."""
    content = hard.encode(path.with_name("once.ts"), 40, options=hard.CLOSED, sound=True, first=25).read_bytes()
    path.write_bytes(content * 2)
    return path


def piped(path: Path) -> Path:
    """An AVI whose writer could not go back to state its length."""
    content = hard.encode(path.with_name("whole.avi"), codec="mpeg4", options={}).read_bytes()
    path.write_bytes(content[:4] + b"\xff" * 4 + content[8:])
    return path


def two_ratios(path: Path) -> Path:
    """A broadcast that goes over from 4:3 to 16:9 in the same 128 x 64."""
    parts = [
        hard.encode(path.with_name(f"{first}.ts"), 40, options=hard.CLOSED, first=first, ratio=ratio)
        for first, ratio in ((0, Fraction(1)), (42, Fraction(4, 3)))
    ]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def all_but(dropped: int) -> list[int]:
    return [number for number in range(100) if number % 10 != dropped]


ODD: dict[str, tuple[Callable[[Path], Path], list[int], str]] = {  # how it is made, the numbers of its frames, a note
    "reordered.avi": (lambda p: hard.encode(p, options=REORDERED), [*range(100)], "time stamps are those of decoding"),
    "remuxed.mkv": (
        lambda p: hard.copy_packets(hard.encode(p.with_suffix(".avi"), options=REORDERED), p),
        [*range(100)],
        "time stamps are those of decoding",
    ),
    "remuxed.mp4": (
        lambda p: hard.copy_packets(hard.encode(p.with_suffix(".avi"), options=REORDERED), p),
        [*range(100)],
        "time stamps are those of decoding",
    ),
    "packed.avi": (hard.packed, [*range(100)], "time stamps are those of decoding"),
    "joined.ts": (lambda p: joined(p, [0, 42, 84], hard.CLOSED), [*range(40), *range(42, 82), *range(84, 124)], ""),
    "again_from_zero.ts": (
        lambda p: joined(p, [0, 0, 0], hard.CLOSED),
        [*range(40)] * 3,
        "time stamps not used: times follow from 25 frames a second",
    ),
    "no_first_eighth.ts": (lambda p: without(p, first=0.125), [*range(30, 100)], "packets before the first keyframe"),
    "cut_end.ts": (lambda p: without(p, last=0.6), [*range(61)], "its last frame is cut off and left out"),
    "hevc_cut.mkv": (lambda p: from_second_keyframe(p, "libx265"), [*range(30, 100)], ""),
    "hevc_cut.ts": (lambda p: from_second_keyframe(p, "libx265"), [*range(30, 100)], ""),
    "h264_cut.mkv": (lambda p: from_second_keyframe(p, "libx264"), [*range(30, 100)], ""),
    "hidden.webm": (
        lambda p: hard.copy_packets(hard.encode(p.with_name("v.webm"), codec="libvpx", options={}), p, hidden),
        all_but(5),
        "",
    ),
    "two_sizes.webm": (hard.two_sizes, [*range(40)], "frames of other sizes scaled to 128 x 64"),
    "two_sizes_9.webm": (lambda p: hard.two_sizes(p, "libvpx-vp9"), [*range(40)], "frames of other sizes"),
    "standing.mkv": (
        lambda p: hard.stated_longer(hard.encode(p.with_name("w.mkv"), 60), p, 30.0),
        [*range(60)],
        "the last frame stays for 27.64 s, as the header states",
    ),
    "piped.avi": (piped, [*range(100)], ""),
    "two_ratios.ts": (two_ratios, [*range(40), *range(42, 82)], "pixels change their shape: all frames scaled to 128"),
    "late_twice.ts": (twice, [*range(25, 65)] * 2, "the picture begins 1.0"),
    "negative.mkv": (  # Matroska has no stamps below 0: those packets have none, the first keyframe among them
        lambda p: hard.encode(
            p, stamps_ms=[40 * at - 1000 for at in range(100)], container={"avoid_negative_ts": "disabled"}
        ),
        [*range(100)],
        "time stamps not used",
    ),
    "interlaced.ts": (lambda p: hard.encode(p, options=FIELDS), [*range(100)], ""),
    "interlaced.mkv": (lambda p: hard.encode(p, options=FIELDS), [*range(100)], ""),
    "mpeg2.mpg": (lambda p: hard.encode(p, codec="mpeg2video", options={"bf": "2"}), [*range(100)], ""),
    "raw.h264": (hard.encode, [*range(100)], "time stamps not used"),
    "pq.mp4": (lambda p: hard.encode(p, transfer=16), [*range(100)], "HDR (PQ): its code values as they are"),
    "hlg.mp4": (lambda p: hard.encode(p, transfer=18), [*range(100)], "HDR (HLG): its code values as they are"),
}


@pytest.mark.parametrize("name", ODD)
def test_every_frame_is_the_right_one_and_what_is_odd_is_said(name: str, tmp_path: Path) -> None:
    make, numbers, note = ODD[name]
    reading = read(make(tmp_path / name))
    assert reading.total == len(numbers) and reading.indices.tolist() == sample_indices(len(numbers), N).tolist()
    assert [hard.number_of(frame) for frame in reading.frames] == [numbers[at] for at in reading.indices]
    assert (np.diff(reading.times) > 0).all() and len({frame.shape for frame in reading.frames}) == 1
    assert (
        any(note in one for one in reading.notes)
        if note
        else not reading.notes or "picture begins" in str(reading.notes)
    )


@pytest.mark.parametrize(
    ("name", "start"),
    [("reordered.avi", 0.0), ("packed.avi", 0.0), ("again_from_zero.ts", 0.0), ("late_twice.ts", 1.01)],
)
def test_times_follow_the_frames_where_stamps_do_not(name: str, start: float, tmp_path: Path) -> None:
    reading = read(ODD[name][0](tmp_path / name))
    np.testing.assert_allclose(reading.times, start + reading.indices * 0.04, atol=0.02 if start else 0.001)
    assert reading.duration == pytest.approx(start + reading.total * 0.04, abs=0.02 if start else 0.001)


def test_the_last_frame_stays_as_long_as_the_header_states(tmp_path: Path) -> None:
    """But a file that is cut off is refused, whatever its header states of time."""
    path = ODD["standing.mkv"][0](tmp_path / "standing.mkv")
    assert read(path).duration == 30.0
    with pytest.raises(VideoError, match=r"is truncated: it states \d+ bytes, \d+ are there"):
        read(hard.truncate(path, tmp_path / "cut.mkv"))


TRUNCATED: dict[str, dict[str, Any]] = {
    "plain.mkv": {},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "live.webm": {"codec": "libvpx", "options": {}, "container": {"live": "1"}},
    "fragmented.mp4": {"container": {"movflags": "frag_keyframe+empty_moov"}},
    "every_frame.mp4": {"container": {"movflags": "frag_every_frame+empty_moov"}},
    "vp8.ogg": {"codec": "libvpx", "options": {}},
    "plain.avi": {"codec": "mpeg4", "options": {}},
}


@pytest.mark.parametrize("name", TRUNCATED)
def test_a_file_that_is_cut_off_is_refused(name: str, tmp_path: Path) -> None:
    whole = hard.encode(tmp_path / f"whole_{name}", **TRUNCATED[name])
    assert read(whole).total == 100
    with pytest.raises(VideoError, match="is truncated"):
        read(hard.truncate(whole, tmp_path / name))


@pytest.mark.parametrize(
    ("name", "mark"),
    [("plain.mkv", b"\xa3"), ("vp9.webm", b"\xa3"), ("every_frame.mp4", b"moof"), ("vp8.ogg", b"OggS")],
)
def test_damage_between_the_frames_is_refused(name: str, mark: bytes, tmp_path: Path) -> None:
    """A demuxer stops, or looks for the next cluster or page, and says nothing of the frames in between."""
    content = bytearray(hard.encode(tmp_path / f"whole_{name}", **TRUNCATED[name]).read_bytes())
    block = content.index(mark, len(content) // 2)
    content[block : block + 500] = np.random.default_rng(1).bytes(500)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VideoError, match=r"is (truncated|damaged)"):
        read(tmp_path / name)


def test_a_hole_in_a_stream_is_refused(tmp_path: Path) -> None:
    content = hard.encode(tmp_path / "whole.ts").read_bytes()
    middle = len(content) // 2 // 188 * 188
    (tmp_path / "hole.ts").write_bytes(content[:middle] + content[middle + 4 * 188 :])
    with pytest.raises(VideoError, match="damaged at packet"):
        read(tmp_path / "hole.ts")


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("mirror", ["hflip", "vflip"])
def test_a_mirrored_video_is_shown_as_a_player_shows_it(mirror: str, degrees: int, tmp_path: Path) -> None:
    reading = read(hard.encode(tmp_path / "mirrored.mp4", 40, rotation=degrees, mirror=mirror))
    for frame, index in zip(reading.frames, reading.indices.tolist(), strict=True):
        turned = np.rot90(hard.picture(index), degrees // 90)
        expected = turned[:, ::-1] if mirror == "hflip" else turned[::-1]
        assert np.abs(frame.astype(int) - expected).mean() < 10
    assert "mirrored" in reading.notes


@pytest.mark.parametrize(
    ("ratio", "shape"), [(Fraction(64, 45), (64, 182, 3)), (Fraction(8, 9), (72, 128, 3)), (Fraction(1), (64, 128, 3))]
)
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_pixels_become_square(ratio: Fraction, shape: tuple[int, ...], suffix: str, tmp_path: Path) -> None:
    reading = read(hard.encode(tmp_path / f"wide.{suffix}", 40, ratio=ratio))
    assert {frame.shape for frame in reading.frames} == {shape}
    assert [hard.number_of(frame) for frame in reading.frames] == reading.indices.tolist()
    assert [note.startswith("pixels of") for note in reading.notes] == ([True] if ratio != 1 else [])


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "flv"])
@pytest.mark.parametrize("late", [0.92, 2.0])
def test_times_count_from_the_start_of_the_file(suffix: str, late: float, tmp_path: Path) -> None:
    """Sound that begins before the picture: subtitles and evidence are timed by the file."""
    reading = read(
        hard.encode(tmp_path / f"late.{suffix}", 40, options=hard.CLOSED, sound=True, first=round(late * 25))
    )
    first = round(late * 25)
    np.testing.assert_allclose(reading.times, (reading.indices + first) / 25, atol=0.05)
    assert [hard.number_of(frame) for frame in reading.frames] == (reading.indices + first).tolist()
    assert reading.duration == pytest.approx(late + 1.6, abs=0.06)
    assert reading.notes and "the picture begins" in reading.notes[0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("reordered.avi", "refused: may be read wrongly by decord"),
        ("hidden.webm", "refused: .*decord"),
        ("plain.avi", "refused: may be read wrongly by decord"),
        ("pq.mp4", "note: HDR"),
        ("mirrored.mp4", "note: decord leaves out: mirrored"),
        ("wide.mp4", "note: decord leaves out: pixels of"),
        ("hevc.mp4", "note: decord may give neighbouring frames"),
    ],
)
def test_what_decord_cannot_do_is_refused_or_named(name: str, expected: str, tmp_path: Path) -> None:
    pytest.importorskip("decord")
    others: dict[str, Callable[[Path], Path]] = {
        "mirrored.mp4": lambda p: hard.encode(p, mirror="hflip"),
        "wide.mp4": lambda p: hard.encode(p, ratio=Fraction(64, 45)),
        "plain.avi": lambda p: hard.encode(p, options={"x264-params": "bframes=0:log-level=none"}),
        "hevc.mp4": lambda p: hard.encode(p, codec="libx265", options=OPEN["libx265"]),
    }
    path = (others[name] if name in others else ODD[name][0])(tmp_path / name)
    kind, _, pattern = expected.partition(": ")
    if kind == "refused":
        with pytest.raises(VideoError, match=pattern):
            read(path, "decord")
    else:
        assert any(pattern in note for note in read(path, "decord").notes)


def test_the_first_frame_decides_on_the_size(tmp_path: Path) -> None:
    with av.open(str(hard.two_sizes(tmp_path / "two.webm"))) as container:
        pictures = Pictures(container.streams.video[0])
        sizes = {pictures(frame).shape for frame in container.decode(video=0)}
    assert sizes == {(64, 128, 3)}
