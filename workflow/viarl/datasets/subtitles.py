"""Subtitles in .srt files: reading them, and what is spoken at the selected frames.

As in lmms-eval (videomme_w_subtitle) that is every line whose interval holds a frame, start included and end excluded,
once, in the order of the file; here a line without a font tag counts too, and the frames are the selected ones.
"""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from viarl.items import without_control_tokens

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

    A block is an interval and the lines after it, up to an empty one. Counted as bad are blocks that end before they
    begin, without text, or with an interval that cannot be read. Times in seconds. What is no UTF-8 is replaced.
    """
    lines = path.read_text(encoding="utf-8-sig", errors="replace").replace("\0", "").splitlines()
    starts = [at for at, line in enumerate(lines) if "-->" in line]
    spans: list[Span] = []
    bad = int(_is_lost(lines[: starts[0] if starts else len(lines)]))
    for number, (at, until) in enumerate(zip(starts, [*starts, len(lines)][1:], strict=True), 1):
        said, rest = _block(lines[at + 1 : until], number + 1 if until < len(lines) else 0)
        text = plain(" ".join(said))
        interval = _INTERVAL.fullmatch(lines[at])
        start_s, end_s = _times(interval) if interval else (1.0, 0.0)
        if text and start_s <= end_s:
            spans.append((start_s, end_s, text))
        else:
            bad += 1
        bad += _is_lost(rest)
    return Subtitles(tuple(spans), bad)


def _block(lines: list[str], number: int) -> tuple[list[str], list[str]]:
    """Return the text after an interval, and what follows on its empty line; `number`: the next block's, 0 if none."""
    last = lines[-1].strip() if lines else ""
    if last and number and (last == str(number) or (last.isdigit() and len(lines) > 1 and not lines[-2].strip())):
        lines = lines[:-1]
    first = next((at for at, line in enumerate(lines) if line.strip()), len(lines))
    end = next((at for at in range(first, len(lines)) if not lines[at].strip()), len(lines))
    return lines[first:end], lines[end:]


def _is_lost(lines: list[str]) -> bool:
    """Tell whether lines outside of blocks hold more than a number."""
    left = [line.strip() for line in lines if line.strip()]
    return bool(left) and not (len(left) == 1 and left[0].isdigit())


def plain(text: str) -> str:
    """Return a text without tags and control tokens of models, entities resolved, on one line."""
    return " ".join(without_control_tokens(html.unescape(_TAG.sub("", text))).split())


def spoken(spans: Sequence[Span], times: Sequence[float]) -> str:
    """Return the lines spoken at the given times (seconds), a line each, in the order of the spans, each span once."""
    return "\n".join(text for start, end, text in spans if any(start <= time < end for time in times))


def _times(match: re.Match[str]) -> tuple[float, float]:
    def seconds(hours: str | None, minutes: str, whole: str, part: str | None) -> float:
        return 3600 * int(hours or 0) + 60 * int(minutes) + int(whole) + int((part or "0").ljust(3, "0")) / 1000

    groups = match.groups()
    return seconds(*groups[:4]), seconds(*groups[4:])
