"""A video file opened without decoding: its packets, its time line, and what is kept of its frames.

The decoder's frames, in the order it gives them, are the truth. What a container says of them is a hint: it serves
where it agrees with itself (`Timeline.doubt`), and what is decoded is held against it.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Generic, TypeVar

import av
import numpy as np
from av.container import InputContainer
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

from viarl.video.format import VideoError, check_deadline, describe
from viarl.video.picture import check_size
from viarl.video.whole import check_whole

# What FFmpeg may take a file for. Not playlists, which lead to other files, nor texts and pictures, shown as films.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,live_flv,asf,ogg,nut,mxf,gif,rm,dv,ivf,"
    "h264,hevc,m4v,vc1,wtv"
)
T = TypeVar("T")
Key = tuple[int, int, int]  # a keyframe's presentation stamp, decoding stamp and position in decoding order
Transform = Callable[[np.ndarray], T]


ENDLESS = {"mpegts", "mpeg", "mpegvideo", "h264", "hevc", "m4v", "vc1", "dv"}  # containers that may be cut anywhere
NOTABLE = 0.5  # seconds without a picture at the start, or of a standing one at the end, that are worth a word
PACKET_IS_FRAME = {"h264", "hevc", "vp8", "vp9", "av1"}  # others have packets of none or two
IN_ORDER = {"vp8", "vp9", "av1"}  # frames are shown in the order of their packets


@dataclass(frozen=True)
class Reading(Generic[T]):
    """The candidate frames of one video: n results of the transform, in the order of time."""

    frames: list[T]
    indices: np.ndarray  # (n,) int64, frame numbers within the video
    pts: np.ndarray  # (n,) int64, presentation stamps in units of `time_base` seconds
    times: np.ndarray  # (n,) float64, seconds since the container's start
    time_base: Fraction
    total: int
    fps: float
    duration: float  # seconds, from the container's start to the end of the last frame
    how: str  # "seek", "sequential" or "decord"
    notes: tuple[str, ...] = ()  # what was done to a video that is not plain


@dataclass(frozen=True)
class Timeline:
    """The packets of a video stream, without decoding."""

    stamps: np.ndarray | None  # (total,) int64, sorted presentation stamps of the frames shown, if each has its own
    order: dict[int, int]  # presentation stamp -> position in decoding order
    keys: list[Key]
    total: int
    time_base: Fraction
    fps: float
    start: int  # presentation stamp of the container's start
    end: int  # of the end of the last frame
    doubt: str  # why stamps and total may not be those of the frames, "" where they are
    by_decoding: bool  # `stamps` are those of decoding: right for all frames together, not for each
    leading: bool  # some frames come behind a keyframe in decoding order and are shown before it
    first: int  # how many packets come before the first keyframe
    cut: tuple[int, ...]  # stamps of packets that may be incomplete without harm: the last one of a stream without end


def open_video(path: Path) -> tuple[InputContainer, VideoStream]:
    """Open a file and return its container and main video stream, set to one decoding thread; VideoError if none."""
    try:
        # `file:` and the whitelist: a playlist disguised as a video must not make us open other addresses.
        container = av.open(f"file:{path}", options={"protocol_whitelist": "file", "format_whitelist": FORMATS})
    except PermissionError as error:
        raise VideoError("may not be read: change its permissions") from error
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"cannot be opened as a video ({describe(error)})") from error
    stream = container.streams.best("video")
    try:
        if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
            raise VideoError("has no video stream")  # but the cover picture of an audio file
        if stream.codec_context is None or not stream.codec_context.is_decoder:
            raise VideoError("has a video codec without a decoder in this FFmpeg")
        check_size(stream.codec_context.width, stream.codec_context.height)
    except VideoError:
        container.close()
        raise
    stream.codec_context.thread_type = "NONE"  # one process a core, one thread each
    stream.codec_context.thread_count = 1
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all  # audio is not even read from the disk
    return container, stream


def check_there(path: Path) -> None:
    """Raise VideoError where there is no ordinary file; a named pipe would be waited for without end."""
    if not os.path.lexists(path):
        raise VideoError(f"is not there: {path} does not exist")
    if not path.is_file():
        raise VideoError(f"is no file: {path} is a folder, a pipe or device, or a link that leads nowhere")


def read_timeline(path: Path, container: InputContainer, stream: VideoStream, deadline: float) -> Timeline:
    """List a video's packets; VideoError where the file ends too early or `deadline` (monotonic seconds) passed."""
    check_whole(path, container.format.name)
    codec = stream.codec_context.codec.canonical_name  # not the decoder's, such as libdav1d
    indexed = len(stream.index_entries) if stream.frames else 0
    stamps: list[int | None] = []
    order: dict[int, int] = {}
    keys: list[Key] = []
    marked: list[int] = []
    packets = end = 0
    first: int | None = None
    doubt, leading, pts, last_dts = "", False, None, None
    try:
        for packet in container.demux(stream):
            if packet.size == 0:  # the mark of the end
                continue
            check_deadline(deadline)
            pts, dts = packet.pts, packet.dts
            if packet.is_keyframe and first is None:
                first = packets  # with a time stamp or without
            if packet.is_corrupt:
                marked.append(packets)
            if dts is not None:
                if last_dts is not None and dts < last_dts:
                    doubt = doubt or "its time stamps jump back"
                last_dts = dts
            if pts is not None:
                order.setdefault(pts, packets)
                leading = leading or (bool(keys) and pts < keys[-1][0])
                if packet.is_keyframe:
                    if keys and pts <= keys[-1][0]:
                        doubt = doubt or "its time stamps jump back"
                    keys.append((pts, pts if dts is None else dts, packets))
            if not packet.is_discard and not (codec == "vp8" and _is_hidden(packet)):
                stamps.append(pts)
                end = max(end, (pts or 0) + (packet.duration or 0))
            packets += 1
    except av.FFmpegError as error:
        raise VideoError(f"cannot be read after packet {packets} ({describe(error)})") from error
    if packets < indexed:
        raise VideoError(f"is truncated: {packets} of {indexed} packets are there")
    for at in marked:  # where streams were joined a keyframe follows, and nothing is lost
        if at < packets - 1 and not any(at < position <= at + 2 for _, _, position in keys):
            raise VideoError(f"is truncated or damaged at packet {at}")
        doubt = doubt or f"packet {at} is marked as damaged"
    known = sorted(stamp for stamp in stamps if stamp is not None)
    distinct = len(known) == len(stamps) and len(set(known)) == len(known)
    by_decoding = distinct and stream.codec_context.has_b_frames and codec not in IN_ORDER and stamps == known
    if not distinct:
        doubt = "the container gives no distinct time stamps"
    elif by_decoding:
        doubt = doubt or "its time stamps may be those of decoding"
    elif stamps and not doubt:
        doubt = _doubt(codec, known, keys, packets)
    base = Fraction(stream.time_base or Fraction(1, 90_000))
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    fps = float(rate) if rate else 0.0
    if distinct and len(known) > 1 and not fps:
        fps = (len(known) - 1) / float((known[-1] - known[0]) * base)
    start = known[0] if known else 0
    if container.start_time is not None:
        late = keys[0][0] - keys[0][1] if keys and (by_decoding or container.format.name == "avi") else 0
        start = round(Fraction(container.start_time, 1_000_000) / base) + late
    end = max(end, round(stated_duration(container, stream) / base))
    cut = (pts,) if ENDLESS & set(container.format.name.split(",")) and pts is not None else ()
    listed = np.array(known, np.int64) if distinct else None
    return Timeline(
        listed, order, keys, len(stamps), base, fps, start, end, doubt, by_decoding, leading, first or 0, cut
    )


def _is_hidden(packet: av.Packet) -> bool:
    """Tell whether a VP8 packet only serves others as a reference; RFC 6386, 9.1."""
    return not memoryview(packet)[0] & 0x10


def _doubt(codec: str, stamps: list[int], keys: list[Key], packets: int) -> str:
    """Return why sorted distinct stamps may not be those of the frames, "" where they are."""
    if not keys or keys[0][2] or stamps[0] < keys[0][0]:
        return "it does not begin with a keyframe"
    if len(keys) < packets and codec not in PACKET_IS_FRAME:
        return f"a packet of {codec} may hold no frame, or two"
    return ""


def stated_duration(container: InputContainer, stream: VideoStream) -> Fraction:
    """Return how long the picture lasts by a Matroska header, in seconds, 0 where it does not say."""
    if "matroska" not in container.format.name:
        return Fraction(0)
    stated = stream.metadata.get("DURATION", "")
    if stated.count(":") == 2:
        hours, minutes, seconds = stated.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
    # the sound may be longer than the picture, so the container's duration says nothing of it
    return Fraction(container.duration or 0, 1_000_000) if len(container.streams) == 1 else Fraction(0)


def make_reading(
    frames: list[T],
    indices: np.ndarray,
    total: int,
    stamps: np.ndarray | None,
    timeline: Timeline,
    how: str,
    notes: Sequence[str],
) -> Reading[T]:
    """Add times and duration to frames; `stamps`, (total,), are those of all frames of the video.

    None where they are of no use: times follow from the frame rate, or else VideoError.
    """
    if stamps is None:
        if not timeline.fps:
            raise VideoError("has neither time stamps nor a frame rate; convert it to MP4")
        base = 1 / Fraction(timeline.fps).limit_denominator(100_000)
        said = [*notes, f"time stamps not used: times follow from {timeline.fps:g} frames a second"]
        key, _, at = timeline.keys[0] if timeline.keys else (timeline.start, 0, timeline.first)
        late = max(0.0, float((key - timeline.start) * timeline.time_base)) if at == timeline.first else 0.0
        pts, times, duration = indices, late + indices * float(base), late + total / timeline.fps
        still = 0.0
    else:
        base, said = timeline.time_base, list(notes)
        start, end = min(timeline.start, int(stamps[0])), max(timeline.end, int(stamps[-1]))
        pts, times, duration = stamps[indices], (stamps[indices] - start) * float(base), float((end - start) * base)
        still = float((end - int(stamps[-1])) * base)
    if times[0] > NOTABLE:
        said.append(f"the picture begins {times[0]:.2f} s after the file")
    if still > NOTABLE + 2 * (times[-1] - times[0]) / total:
        said.append(f"the last frame stays for {still:.2f} s, as the header states")
    return Reading(frames, indices, pts, times, base, total, timeline.fps, duration, how, tuple(said))
