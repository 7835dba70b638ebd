"""Which frames of a video are candidates, and the error of a video that cannot be used; no decoding.

`viarl.video.cache` and `viarl.video.writer` share this and the settings, and nothing else, so that a stage that only
reads frames is not stale when the decoding code changes.
"""

import time

import numpy as np


class VideoError(ValueError):
    """A video that cannot be used completely; the message says why."""


def sample_indices(total: int, candidates: int) -> np.ndarray:
    """Return the frame numbers of the candidate frames, (n,) int64 with n = min(total, candidates) // 2 * 2.

    Source: ViaRL's get_video_message: uniform from the first to the last frame, truncated, an even number of frames.
    Errors: VideoError for fewer than two frames.
    """
    if total < 2:
        raise VideoError(f"has {total} frame(s); at least 2 are needed")
    count = min(total, candidates) // 2 * 2
    return np.linspace(0, total - 1, count).astype(np.int64)


def check_deadline(deadline: float) -> None:
    """Raise VideoError after `deadline`, in seconds of the monotonic clock."""
    if time.monotonic() > deadline:
        raise VideoError("took longer to read than `timeout_s`; raise it, or leave the video out")


def describe(error: Exception) -> str:
    """Return an error of FFmpeg as a short text without its path."""
    return getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
