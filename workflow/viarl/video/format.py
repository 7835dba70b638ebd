"""What a file of the frame cache is: its settings, its key and its errors; no decoding, so that readers import little.

`viarl.video.cache` (reading) and `viarl.video.writer` (making) share this module and nothing else. A stage that only
reads frames is therefore not stale when the decoding code changes without changing the frames' settings.
"""

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np

READERS = ("pyav", "decord")
FORMAT = 1  # raise it when the tensors or the header of a cache file change


class VideoError(ValueError):
    """A video that cannot be used completely; the message says why."""


@dataclass(frozen=True)
class CacheSettings:
    """What the cached frames depend on.

    Args:
        candidates: candidate frames a video, N; even.
        selector_pixels: longest side of a selector frame (paper: 112).
        answerer_pixels: longest side of an answerer frame (paper: 896); smaller videos are not enlarged.
        jpeg_quality: of the answerer frames, 1..95.
        reader: "pyav" or "decord", see `viarl.video.reader`.
    """

    candidates: int
    selector_pixels: int
    answerer_pixels: int
    jpeg_quality: int = 90
    reader: str = "pyav"

    def __post_init__(self) -> None:
        if self.candidates < 2 or self.candidates % 2:
            raise ValueError(f"frames.candidates must be an even number of at least 2, not {self.candidates}")
        if not 1 <= self.selector_pixels <= self.answerer_pixels:
            raise ValueError(
                f"frames.selector_pixels ({self.selector_pixels}) must lie between 1 and frames.answerer_pixels "
                f"({self.answerer_pixels}): selector frames are made from answerer frames"
            )
        if not 1 <= self.jpeg_quality <= 95:
            raise ValueError(f"frames.jpeg_quality must lie in 1..95, not {self.jpeg_quality}")
        if self.reader not in READERS:
            raise ValueError(f"frames.reader {self.reader!r} is unknown; choose one of {READERS}")

    @property
    def key(self) -> str:
        """The hash of the settings that every cache file made with them carries."""
        return hashlib.sha256(json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True).encode()).hexdigest()


def sample_indices(total: int, candidates: int) -> np.ndarray:
    """Return the frame numbers of the candidate frames, (n,) int64 with n = min(total, candidates) // 2 * 2.

    Source: ViaRL's get_video_message: uniform from the first to the last frame, truncated, an even number of frames.
    """
    count = min(total, candidates) // 2 * 2
    return np.linspace(0, total - 1, count).astype(np.int64)
