"""Reading the candidate frames of a video: exactly the right ones, or an error that says why not.

`pyav` seeks to the keyframe before each target and decodes from there (`seeking`): about half the cost of decoding
everything. Where the container cannot be believed, or seeking fails, a child process decodes everything in order
(`child`), and its frames count; where that fails too, VideoError. A frame is never replaced by a neighbour. `decord`
can be chosen to reproduce the authors' numbers: it returns WRONG frames without a word for HEVC and open-GOP H.264,
and hangs on MPEG-TS, so it runs in the child process, and what it cannot do is refused or noted.
"""

import time
from importlib.util import find_spec
from pathlib import Path

import av

from viarl.video.child import read_in_child
from viarl.video.container import Reading, T, Transform, check_there
from viarl.video.format import VideoError, describe
from viarl.video.seeking import SeekingFailed, read_by_seeking


def check_reader(reader: str) -> None:
    """Raise ValueError for a reader that is unknown or not installed."""
    if reader not in ("pyav", "decord"):
        raise ValueError(f"reader {reader!r} is unknown; choose pyav or decord")
    if reader == "decord" and find_spec("decord") is None:
        raise ValueError("reader 'decord' is not installed: run `pip install decord`, or set frames.reader to 'pyav'")


def read_frames(
    path: Path, candidates: int, transform: Transform[T], reader: str = "pyav", timeout_s: float = 600.0
) -> Reading[T]:
    """Read a video's candidate frames, N of them or fewer of a short one; VideoError says why it cannot be used.

    `transform` maps (H, W, 3) uint8 RGB, as soon as it is decoded, to what is kept. `timeout_s` holds for each attempt.
    """
    check_reader(reader)
    if candidates < 2 or candidates % 2:
        raise ValueError(f"candidates must be an even number of at least 2, not {candidates}")
    check_there(path)
    if reader == "decord":
        return read_in_child("decord", path, candidates, transform, timeout_s)
    try:
        return read_by_seeking(path, candidates, transform, time.monotonic() + timeout_s)
    except SeekingFailed as failure:
        try:
            return read_in_child("sequential", path, candidates, transform, timeout_s)
        except VideoError as error:
            raise VideoError(f"{error} (by seeking: {failure})") from error
    except av.FFmpegError as error:
        raise VideoError(f"cannot be converted to RGB ({describe(error)})") from error
