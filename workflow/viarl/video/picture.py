"""From decoded frames to the pictures that a player shows: RGB, upright, mirrored, of square pixels, of one size."""

from fractions import Fraction
from typing import Any

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorTrc, VideoReformatter
from av.video.stream import VideoStream

from viarl.video.format import VideoError

LARGEST_FRAME = 2**26  # pixels, 8192 x 8192, 200 MB as RGB: above it a video is refused, not decoded
Orientation = tuple[int, int, int, int]
HDR = {ColorTrc.SMPTE2084: "PQ", ColorTrc.ARIB_STD_B67: "HLG"}


def check_size(width: int, height: int) -> None:
    """Raise VideoError where frames of this size would take more memory than a job has."""
    if width * height > LARGEST_FRAME:
        raise VideoError(f"has frames of {width} x {height}, more than {LARGEST_FRAME} pixels: scale it down")


class Pictures:
    """Converts the frames of one video; `notes` says in words what is done to them beyond a change of colour space.

    The first frame decides on orientation and size: later ones of another size are scaled to it, as players do.
    """

    def __init__(self, stream: VideoStream) -> None:
        self.ratio = Fraction(stream.sample_aspect_ratio or 1)  # width of a pixel / its height
        self.codec = stream.codec_context
        self.stored = (0, 0)  # width and height of the first frame
        self.coded: Fraction | None = None  # its pixels' shape as the codec states it
        self.size = (0, 0)  # the same with square pixels
        self.turn: Orientation = (1, 0, 0, 1)
        self.notes: list[str] = []
        self._converter = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        """Return a frame as (H, W, 3) uint8 RGB; VideoError where it is too large."""
        check_size(frame.width, frame.height)
        if not any(self.size):
            self._decide(frame)
        width, height = self.size
        if (frame.width, frame.height) != self.stored:
            self._note(f"frames of other sizes scaled to {width} x {height}")
        elif self.codec.sample_aspect_ratio != self.coded:
            self._note(f"pixels change their shape: all frames scaled to {width} x {height}")
        image: np.ndarray = self._converter.reformat(frame, width, height, "rgb24").to_ndarray()
        return upright(image, self.turn)

    def _decide(self, frame: VideoFrame) -> None:
        width, height = self.stored = frame.width, frame.height
        self.coded = self.codec.sample_aspect_ratio
        if self.ratio > 1:  # stretched, never squeezed: no pixel is lost
            width = round(width * self.ratio)
        elif self.ratio < 1:
            height = round(height / self.ratio)
        check_size(width, height)
        self.size = width, height
        a, b, c, d = self.turn = orientation(frame)
        if self.ratio != 1:
            shape = f"{self.ratio.numerator}:{self.ratio.denominator}"
            self._note(f"pixels of {shape} made square: {frame.width} x {frame.height} to {width} x {height}")
        if a * d - b * c < 0:
            self._note("mirrored")
        if (a, d) != (1, 1) and (a, d) != (-1, 1):
            self._note("turned upright")
        if frame.color_trc in HDR:
            self._note(f"HDR ({HDR[ColorTrc(frame.color_trc)]}): its code values as they are, not converted to SDR")

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def orientation(frame: VideoFrame) -> Orientation:
    """Return the nearest of the eight orientations as (a, b, c, d): x to the right becomes (a, b), y down (c, d).

    Source: FFmpeg's display matrix, nine numbers whose first two rows hold a, b and c, d.
    """
    # Asked of one frame only: PyAV ties a frame and its side data to each other, so that it waits for a collection.
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return 1, 0, 0, 1
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].astype(np.int64).tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return (-1 if a < 0 else 1), 0, 0, (-1 if d < 0 else 1)
    return 0, (-1 if b < 0 else 1), (-1 if c < 0 else 1), 0


def upright(image: np.ndarray, turn: Orientation) -> np.ndarray:
    """Return (H, W, 3) uint8 in an orientation; the same array where that changes nothing."""
    a, b, c, d = turn
    if (a, d) == (1, 1):
        return image
    if not a:
        image = image.swapaxes(0, 1)
    return np.ascontiguousarray(image[:: b + d, :: a + c])
