"""A video file opened without decoding: its packets, its time line, and what is kept of its frames."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Generic, TypeVar

import av
import numpy as np
from av.container import InputContainer
from av.stream import Discard, Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from viarl.video.format import VideoError, check_deadline, describe

LARGEST_FRAME = 2**26  # pixels, 8192 x 8192, 200 MB as RGB: above it a video is refused, not decoded
# What FFmpeg may take a file for. Not playlists, which lead to other files, nor texts and pictures, shown as films.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,live_flv,asf,ogg,nut,mxf,gif,rm,dv,ivf,"
    "h264,hevc,m4v,vc1,wtv"
)
T = TypeVar("T")
Key = tuple[int, int, int]  # a keyframe's presentation stamp, decoding stamp and position in decoding order
Transform = Callable[[np.ndarray], T]


@dataclass(frozen=True)
class Reading(Generic[T]):
    """The candidate frames of one video: n results of the transform, in the order of time."""

    frames: list[T]
    indices: np.ndarray  # (n,) int64, frame numbers within the video
    pts: np.ndarray  # (n,) int64, presentation stamps in units of `time_base` seconds
    times: np.ndarray  # (n,) float64, seconds since the first frame
    time_base: Fraction
    total: int
    fps: float
    duration: float  # seconds, from the first frame to the end of the last
    how: str  # "seek", "sequential" or "decord"


@dataclass(frozen=True)
class Timeline:
    """The packets of a video stream, without decoding."""

    stamps: np.ndarray | None  # (total,) int64, sorted presentation stamps of the frames shown, if each has its own
    order: dict[int, int]  # presentation stamp -> position in decoding order
    keys: list[Key]
    total: int
    time_base: Fraction
    fps: float
    end: int  # presentation stamp of the end of the last frame


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


def check_size(width: int, height: int) -> None:
    """Raise VideoError where frames of this size would take more memory than a job has."""
    if width * height > LARGEST_FRAME:
        raise VideoError(f"has frames of {width} x {height}, more than {LARGEST_FRAME} pixels: scale it down")


def read_timeline(container: InputContainer, stream: VideoStream, deadline: float) -> Timeline:
    """List a video's packets; VideoError where the file ends too early or `deadline` (monotonic seconds) passed."""
    indexed = len(stream.index_entries) if stream.frames else 0
    stamps: list[int | None] = []
    order: dict[int, int] = {}
    keys: list[Key] = []
    packets = end = 0
    try:
        for packet in container.demux(stream):
            if packet.size == 0:  # the mark of the end
                continue
            if packet.is_corrupt:
                raise VideoError(f"is truncated or damaged at packet {packets}")
            check_deadline(deadline)
            pts = packet.pts
            if pts is not None:
                order.setdefault(pts, packets)
                if packet.is_keyframe:
                    keys.append((pts, pts if packet.dts is None else packet.dts, packets))
            if not packet.is_discard:
                stamps.append(pts)
                end = max(end, (pts or 0) + (packet.duration or 0))
            packets += 1
    except av.FFmpegError as error:
        raise VideoError(f"cannot be read after packet {packets} ({describe(error)})") from error
    if packets < indexed:
        raise VideoError(f"is truncated: {packets} of {indexed} packets are there")
    known = sorted(stamp for stamp in stamps if stamp is not None)
    distinct = len(known) == len(stamps) and len(set(known)) == len(known)
    base = Fraction(stream.time_base or Fraction(1, 90_000))
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    fps = float(rate) if rate else 0.0
    if distinct and len(known) > 1 and not fps:
        fps = (len(known) - 1) / float((known[-1] - known[0]) * base)
    timeline = Timeline(np.array(known, np.int64) if distinct else None, order, keys, len(stamps), base, fps, end)
    check_length(container, stream, timeline)
    return timeline


def check_length(container: InputContainer, stream: VideoStream, timeline: Timeline) -> None:
    """Raise VideoError where a Matroska or WebM file ends well before the duration that its header states."""
    if "matroska" not in container.format.name or timeline.stamps is None or not timeline.total:
        return
    stated = stream.metadata.get("DURATION", "")
    if stated.count(":") == 2:
        hours, minutes, seconds = stated.split(":")
        expected = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    elif container.duration and len(container.streams) == 1:
        expected = container.duration / 1_000_000
    else:  # the sound may be longer than the picture, so the container's duration proves nothing
        return
    found = float(timeline.end * timeline.time_base)
    if found < expected - max(1.0, 0.02 * expected):
        raise VideoError(f"is truncated: its header states {expected:.1f} s of video, {found:.1f} s are there")


def to_rgb(frame: VideoFrame, converter: VideoReformatter) -> np.ndarray:
    """Return a decoded frame as (H, W, 3) uint8 RGB, upright as a player shows it; one `converter` serves a video."""
    check_size(frame.width, frame.height)  # which may change within a video
    image: np.ndarray = converter.reformat(frame, format="rgb24").to_ndarray()
    quarter_turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, quarter_turns)) if quarter_turns else image


def make_reading(frames: list[T], indices: np.ndarray, pts: np.ndarray, timeline: Timeline, how: str) -> Reading[T]:
    """Add times and duration to frames; where the container has no usable stamps they follow from the frame rate."""
    if timeline.stamps is not None:
        start, base = int(timeline.stamps[0]), timeline.time_base
        duration = float((max(timeline.end, int(timeline.stamps[-1])) - start) * base)
    elif timeline.fps:
        start, base = 0, 1 / Fraction(timeline.fps).limit_denominator(100_000)
        duration, pts = timeline.total / timeline.fps, indices
    else:
        raise VideoError("has neither time stamps nor a frame rate; convert it to MP4")
    times = (pts - start) * float(base)
    return Reading(frames, indices, pts, times, base, timeline.total, timeline.fps, duration, how)
