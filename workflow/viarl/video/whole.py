"""Whether all of a file is there: what its container states of its own length, held against the file's size.

Only lengths in bytes tell. A duration in a header may be the recorder's clock, and says nothing of the frames.
"""

import mmap
from pathlib import Path

from viarl.video.format import VideoError

BOXES = {b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"sidx", b"mfra", b"uuid", b"meta", b"wide"}
BOXES |= {b"emsg", b"prft", b"ssix", b"pdin", b"meco"}
SEGMENT, CLUSTER = 0x18538067, 0x1F43B675
# What may follow a cluster whose length is not stated, as in live recordings: a cluster, cues, tags and the like.
BESIDE_CLUSTERS = {CLUSTER, 0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367}


def check_whole(path: Path, names: str) -> None:
    """Raise VideoError for a file shorter than it states; `names` are FFmpeg's for its container, with commas.

    Of Matroska and WebM the blocks must fill their clusters exactly, as a demuxer passes over damage without a word.
    """
    checks = {"mp4": _check_boxes, "avi": _check_riff, "matroska": _check_elements, "ogg": _check_pages}
    for name, check in checks.items():
        if name in names.split(","):
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                check(data)


def _truncated(end: int, size: int) -> VideoError:
    return VideoError(f"is truncated: it states {end} bytes, {size} are there")


def _check_boxes(data: mmap.mmap) -> None:
    """Go from box to box of an MP4 as far as there are any; what follows is no part of it, or damage."""
    at, fragments = 0, False
    while at < len(data):
        kind, length = data[at + 4 : at + 8], int.from_bytes(data[at : at + 4], "big")
        if length == 1:
            length = int.from_bytes(data[at + 8 : at + 16], "big")
        if kind not in BOXES and not (length >= 8 and data[at + length + 4 : at + length + 8] in BOXES):
            break
        if length < 8:  # 0: up to the end of the file
            return
        fragments = fragments or kind == b"moof"
        at += length
        if at > len(data):
            raise _truncated(at, len(data))
    if fragments and data.find(b"moof", at) >= 0:  # a demuxer stops here without a word
        raise VideoError(f"is damaged at byte {at}")


def _check_pages(data: mmap.mmap) -> None:
    """Go from page to page of an Ogg file; what follows is no part of it, or damage."""
    at = 0
    while data[at : at + 4] == b"OggS":
        lengths = data[at + 27 : at + 27 + data[at + 26]] if at + 26 < len(data) else b""
        at += 27 + len(lengths) + sum(lengths)
        if at > len(data):
            raise _truncated(at, len(data))
    if data.find(b"OggS", at) >= 0:
        raise VideoError(f"is damaged at byte {at}")


def _check_riff(data: mmap.mmap) -> None:
    end = int.from_bytes(data[4:8], "little") + 8
    if data[:4] == b"RIFF" and data[4:8] != b"\xff" * 4 and end > len(data):  # those: written to a pipe
        raise _truncated(end, len(data))


def _check_elements(data: mmap.mmap) -> None:
    """Go from element to element of a Matroska file, into its segment and its clusters."""
    size, at = len(data), 0
    ends = [size]  # of the file, the segment and the cluster that hold the next element
    while at < size:
        if at == ends[-1]:
            ends.pop()
            if len(ends) == 1:  # behind the segment
                return
            continue
        element, inside = _number(data, at, marked=True), at + _width(data, at)
        if inside >= size:
            raise _truncated(inside + 1, size)
        length, inside = _number(data, inside), inside + _width(data, inside)
        if element in BESIDE_CLUSTERS and len(ends) == 3 and ends[2] == ends[1]:
            ends.pop()  # of unknown length
        end = ends[-1] if length is None else inside + length
        if end > size:
            raise _truncated(end, size)
        if not data[at] or end > ends[-1]:
            raise VideoError(f"is damaged at byte {at}")
        if element in (SEGMENT, CLUSTER):
            ends.append(end)
        at = inside if element in (SEGMENT, CLUSTER) else end


def _width(data: mmap.mmap, at: int) -> int:
    """Return how many bytes an EBML number takes: its first bit set tells; 9 where none is."""
    return 9 - data[at].bit_length()


def _number(data: mmap.mmap, at: int, marked: bool = False) -> int | None:
    """Return an EBML number, with its first bit set if `marked`, None where all others are: "unknown"."""
    width = _width(data, at)
    value = int.from_bytes(data[at : at + width], "big")
    rest = value & (1 << 7 * width) - 1
    if marked:
        return value
    return None if rest == (1 << 7 * width) - 1 else rest
