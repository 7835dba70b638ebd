"""Subtitles in .srt files: reading them, and what is spoken at the selected frames.

Video-MME with subtitles shows the answerer the lines spoken at the frames it sees. lmms-eval's task (videomme_w_subtitle)
takes every line whose interval holds a sampled frame, start included and end excluded, once, in the order of the file,
and of a line the text of its font tag. Here a line without such a tag counts too, and the times are the selected frames'.
"""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

Span = tuple[float, float, str]  # start and end in seconds, and the text on one line

_TIME = r"(?:(\d{1,3}):)?(\d{1,3}):(\d{1,2})(?:[,.](\d{1,3}))?"
_INTERVAL = re.compile(rf"\s*{_TIME}\s*-+>\s*{_TIME}(?:\s.*)?")
_TAG = re.compile(r"</?[A-Za-z][^<>]*>|\{\\[^{}]*\}")  # <font …>, </i>, and {\an8} of other players


@dataclass(frozen=True)
class Subtitles:
    """The lines of a file, in its order, and how many of its blocks could not be used."""

    spans: tuple[Span, ...]
    bad: int


def read_srt(path: Path) -> Subtitles:
    """Read an .srt file: UTF-8 with or without a byte order mark, any line ends, with or without numbers.

    A block is what follows an interval up to the next one. Blocks with an interval that ends before it begins, without
    text, or without an interval are counted as bad. Times in seconds. Errors: OSError; bytes that are no UTF-8 are
    replaced, as a subtitle more or less legible is better than none.
    """
    lines = path.read_text(encoding="utf-8-sig", errors="replace").replace("\0", "").splitlines()
    blocks = [at for at, line in enumerate(lines) if "-->" in line]
    spans: list[Span] = []
    bad = 0
    for at, until in zip(blocks, [*blocks[1:], len(lines)], strict=True):
        said = lines[at + 1 : until]
        if until < len(lines) and said and said[-1].strip().isdigit():
            said = said[:-1]  # the number of the next block
        text = plain(" ".join(said))
        interval = _INTERVAL.fullmatch(lines[at])
        start_s, end_s = _times(interval) if interval else (1.0, 0.0)
        if not text or end_s < start_s:
            bad += 1
        else:
            spans.append((start_s, end_s, text))
    return Subtitles(tuple(spans), bad + (not blocks and any(line.strip() for line in lines)))


def plain(text: str) -> str:
    """Return a text without tags, entities resolved, on one line."""
    return " ".join(html.unescape(_TAG.sub("", text)).split())


def spoken(spans: Sequence[Span], times: Sequence[float]) -> str:
    """Return the lines spoken at the given times (seconds), a line each, in the order of the spans, each span once."""
    return "\n".join(text for start, end, text in spans if any(start <= time < end for time in times))


def _times(match: re.Match[str]) -> tuple[float, float]:
    def seconds(hours: str | None, minutes: str, whole: str, part: str | None) -> float:
        return 3600 * int(hours or 0) + 60 * int(minutes) + int(whole) + int((part or "0").ljust(3, "0")) / 1000

    groups = match.groups()
    return seconds(*groups[:4]), seconds(*groups[4:])
