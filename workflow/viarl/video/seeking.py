"""Reading the candidate frames with seeks: decode from the keyframe before each, and skip what nothing refers to."""

from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from viarl.video.container import Key, Reading, T, Timeline, Transform, make_reading, open_video, read_timeline
from viarl.video.format import check_deadline, describe, sample_indices
from viarl.video.picture import Pictures

Shown = Iterator[tuple[int, VideoFrame]]  # presentation stamps and frames


class SeekingFailed(Exception):
    """Seeking does not work in this file; decoding it in order may."""


def seek_targets(
    container: InputContainer, stream: VideoStream, timeline: Timeline, targets: list[int], deadline: float
) -> Shown:
    """Yield (presentation stamp, frame) for every stamp in the sorted `targets`; SeekingFailed where one is lacking."""
    groups: dict[Key, list[int]] = {}
    positions = [position for _, _, position in timeline.keys]
    for target in targets:
        # The last keyframe before the target in decoding order is too late for the leading pictures of an open GOP,
        # which are shown before it and refer to the GOP before: step back until it is shown no later than the target.
        at = bisect_right(positions, timeline.order[target]) - 1
        while at >= 0 and timeline.keys[at][0] > target:
            at -= 1
        if at < 0:
            raise SeekingFailed("no keyframe before the first target")
        groups.setdefault(timeline.keys[at], []).append(target)
    try:
        for key, group in groups.items():
            last = max(timeline.order[target] for target in group)
            yield from _decode_group(container, stream, timeline, key, group, last, deadline)
    except av.FFmpegError as error:
        raise SeekingFailed(describe(error)) from error


def _decode_group(
    container: InputContainer,
    stream: VideoStream,
    timeline: Timeline,
    key: Key,
    group: list[int],
    last: int,
    deadline: float,
) -> Shown:
    assert timeline.stamps is not None
    key_pts, key_dts, position = key
    codec = stream.codec_context
    can_skip = codec.name == "h264"
    wanted = set(group)
    due = iter(timeline.stamps[np.searchsorted(timeline.stamps, key_pts) :].tolist())

    def shown(frames: list[VideoFrame]) -> Shown:
        for frame in frames:
            if frame.pts is None or frame.pts < key_pts:
                continue  # leading pictures of an open GOP, which lack their references here
            if frame.is_corrupt:
                raise SeekingFailed(f"the decoder reports damage at the time stamp {frame.pts}")
            if can_skip and frame.interlaced_frame:
                raise SeekingFailed("a packet of interlaced H.264 may hold half a frame")
            # Frames come in the order of their stamps, none left out but by us; behind the last target some are.
            if wanted and not (frame.pts in due if can_skip else frame.pts == next(due, None)):
                raise SeekingFailed(f"the decoder gives no frame, or another, at the time stamp {frame.pts}")
            if frame.pts in wanted:
                wanted.discard(frame.pts)
                yield frame.pts, frame

    container.seek(key_dts, stream=stream, backward=True)
    started = False
    for packet in container.demux(stream):
        check_deadline(deadline)
        if not started:
            if packet.size == 0 or (packet.dts is not None and packet.dts > key_dts):
                raise SeekingFailed(f"seeking to the keyframe at {key_pts} lands behind it")
            if packet.pts != key_pts:
                continue
            started = True
        if packet.size == 0:
            break
        # The decoder leaves out what nothing refers to, which changes no other pixel; a target is always decoded.
        codec.skip_frame = "NONREF" if can_skip and packet.pts not in wanted else "DEFAULT"
        yield from shown(codec.decode(packet))
        if position >= last:
            break
        position += 1
    yield from shown(codec.decode(None))  # what the decoder still holds back for reordering
    if wanted:
        raise SeekingFailed(f"{len(wanted)} of {len(group)} frames after the keyframe at {key_pts} did not come back")


def read_by_seeking(path: Path, candidates: int, transform: Transform[T], deadline: float) -> Reading[T]:
    """Read the candidate frames with seeks, each transformed. Errors: VideoError; SeekingFailed: try in order."""
    container, stream = open_video(path)
    with container:
        timeline = read_timeline(path, container, stream, deadline)
        if timeline.stamps is None or timeline.doubt:
            raise SeekingFailed(timeline.doubt)
        indices, pictures = sample_indices(timeline.total, candidates), Pictures(stream)
        pts = timeline.stamps[indices].tolist()
        shown = seek_targets(container, stream, timeline, pts, deadline)
        found = {stamp: transform(pictures(frame)) for stamp, frame in shown}
    frames = [found[stamp] for stamp in pts]
    return make_reading(frames, indices, timeline.total, timeline.stamps, timeline, "seek", pictures.notes)
