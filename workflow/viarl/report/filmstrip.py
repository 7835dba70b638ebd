"""Filmstrips: one picture a test question, with what every selector picked and what the answerer made of it.

From top to bottom: the question; all candidate frames, evidence framed in green; a row of marks for each selector with
the answer that its frames led to; the learned selector's frames as the answerer saw them, with its text and the reply.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from viarl.files import atomic_path
from viarl.items import LETTERS, Item
from viarl.report.style import BLUE, FAINT, GREEN, GREY, INK, VERMILION, in_order, look
from viarl.selection.evidence import evidence_frames

WIDTH, MARGIN = 1500, 24  # pixels
LABELS, VERDICTS = 184, 236  # width of the columns left and right of the strip
A_LINE = 32  # candidate frames side by side; more are wrapped
ROW = 22  # height of a selector's row
LARGE = 132  # longest side of a frame as the answerer saw it
EVIDENCE_SHADE = "#dff3ec"


@dataclass(frozen=True)
class Pick:
    """What one selector's frames led to; the fields are those of the per-question table (viarl.evaluate.rows)."""

    selector: str
    indices: tuple[int, ...]
    valid: bool
    reason: str
    text: str
    reply: str
    letter: str
    correct: bool
    evidence_recall: float
    failed: str = ""


@dataclass(frozen=True)
class Question:
    """A test question with every selector's pick."""

    benchmark: str
    item: Item
    picks: tuple[Pick, ...]


def choose(questions: Sequence[Question], count: int) -> list[Question]:
    """Return at most `count` questions, in turn from each benchmark and task by id: typical ones, whatever came out."""
    groups: dict[tuple[str, str], list[Question]] = {}
    for question in sorted(questions, key=lambda entry: entry.item.id):
        groups.setdefault((question.benchmark, question.item.task), []).append(question)
    rounds = range(max(map(len, groups.values()), default=0))
    turns = [group[turn] for turn in rounds for _, group in sorted(groups.items()) if turn < len(group)]
    return turns[:count]


def draw_filmstrip(question: Question, frames: Sequence[np.ndarray], times: np.ndarray, path: Path) -> None:
    """Write a question's filmstrip as PNG, of all n candidate frames, each (H, W, 3) uint8, and their (n,) seconds."""
    sheet = _Sheet()
    _head(sheet, question)
    _strip(sheet, question, frames, times)
    _learned(sheet, question, frames)
    with atomic_path(path) as temporary:
        sheet.cropped().save(temporary, format="PNG", optimize=True)


@lru_cache(maxsize=32)
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


class _Sheet:
    """A canvas that is filled from top to bottom; `y` is where the next thing goes."""

    def __init__(self) -> None:
        self.image = Image.new("RGB", (WIDTH, 400), "white")
        self.draw = ImageDraw.Draw(self.image)
        self.y = MARGIN

    def reserve(self, height: int) -> None:
        """Make the canvas high enough for `height` more pixels."""
        if self.y + height + MARGIN > self.image.height:
            taller = Image.new("RGB", (WIDTH, self.y + height + MARGIN + 400), "white")
            taller.paste(self.image)
            self.image, self.draw = taller, ImageDraw.Draw(taller)

    def text(
        self, x: int, y: float, text: str, size: int, colour: str = INK, bold: bool = False, anchor: str = "la"
    ) -> None:
        self.draw.text((x, y), text, font=_font(size, bold), fill=colour, anchor=anchor)

    def paragraph(
        self, x: int, width: int, text: str, size: int, colour: str = INK, bold: bool = False, lines: int = 12
    ) -> None:
        """Write wrapped text at `y` and move `y` below it; what does not fit into `lines` lines ends in "…"."""
        wrapped = _wrap(text, _font(size, bold), width)
        if len(wrapped) > lines:
            wrapped = [*wrapped[: lines - 1], f"{wrapped[lines - 1]} …"]
        step = round(size * 1.4)
        self.reserve(step * len(wrapped))
        for line in wrapped:
            self.text(x, self.y, line, size, colour, bold)
            self.y += step

    def cropped(self) -> Image.Image:
        """Return the canvas down to what was filled."""
        return self.image.crop((0, 0, WIDTH, self.y + MARGIN))


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Return lines of at most `width` pixels, broken at spaces, within words that are longer than a line."""
    lines: list[str] = []
    for paragraph in text.splitlines() or [""]:
        line = ""
        for word in paragraph.split():
            wider = f"{line} {word}" if line else word
            if font.getlength(wider) > width and line:
                lines.append(line)
                wider = word
            while font.getlength(wider) > width:
                cut = max(1, next(n for n in range(len(wider), 0, -1) if n == 1 or font.getlength(wider[:n]) <= width))
                lines.append(wider[:cut])
                wider = wider[cut:]
            line = wider
        lines.append(line)
    return lines


def _head(sheet: _Sheet, question: Question) -> None:
    item = question.item
    task = f"   ·   task: {item.task}" if item.task else ""
    head = f"{question.benchmark}   ·   {item.id}   ·   video {item.video}{task}"
    sheet.paragraph(MARGIN, WIDTH - 2 * MARGIN, head, 15, GREY)
    sheet.paragraph(MARGIN, WIDTH - 2 * MARGIN, item.question, 22, bold=True, lines=4)
    x, bottom = MARGIN, sheet.y
    for letter, option in zip(LETTERS, item.options, strict=False):
        right = letter == item.answer
        label = f"{letter}. {option}" + ("  ✓" if right else "")
        wide = min(round(_font(17, right).getlength(label)), WIDTH - 2 * MARGIN)
        if x > MARGIN and x + wide > WIDTH - MARGIN:
            x, sheet.y = MARGIN, bottom
        above = sheet.y
        sheet.paragraph(x, WIDTH - MARGIN - x, label, 17, GREEN if right else INK, right, lines=2)
        x, bottom, sheet.y = x + wide + 36, sheet.y, above
    sheet.y = bottom + 14


def _strip(sheet: _Sheet, question: Question, frames: Sequence[np.ndarray], times: np.ndarray) -> None:
    evidence = set().union(*evidence_frames(times, question.item.evidence))
    side = (WIDTH - 2 * MARGIN - LABELS - VERDICTS) // A_LINE
    height = max(8, round((side - 2) * frames[0].shape[0] / frames[0].shape[1]))
    order = in_order(pick.selector for pick in question.picks)
    picks = sorted(question.picks, key=lambda pick: order.index(pick.selector))
    left = MARGIN + LABELS
    for first in range(0, len(frames), A_LINE):
        shown = range(first, min(first + A_LINE, len(frames)))
        sheet.reserve(height + 28 + ROW * len(picks) + 20)
        top = sheet.y
        below = top + height + 24
        for x, index in zip(range(left, left + side * len(shown), side), shown, strict=True):
            if index in evidence:
                sheet.draw.rectangle((x, top - 4, x + side - 1, below + ROW * len(picks)), fill=EVIDENCE_SHADE)
                sheet.draw.rectangle((x, top - 4, x + side - 1, top + height + 3), fill=GREEN)
            thumb = Image.fromarray(frames[index]).resize((side - 2, height), Image.Resampling.LANCZOS)
            sheet.image.paste(thumb, (x + 1, top))
            colour = GREEN if index in evidence else INK
            sheet.text(x + side // 2, top + height + 6, str(index), 12, colour, anchor="ma")
        sheet.text(MARGIN, top + height / 2 - 8, "candidates", 15, bold=True, anchor="lm")
        span = f"{times[shown[0]]:.1f} to {times[shown[-1]]:.1f} s"
        sheet.text(MARGIN, top + height / 2 + 10, span, 13, GREY, anchor="lm")
        for row, pick in enumerate(picks):
            _row(sheet, pick, shown, left, side, below + row * ROW)
            if first == 0:
                _verdict(sheet, pick, bool(question.item.answer), below + row * ROW + ROW // 2)
        sheet.y = below + ROW * len(picks) + 18


def _row(sheet: _Sheet, pick: Pick, shown: range, left: int, side: int, top: int) -> None:
    style, middle = look(pick.selector), top + ROW // 2
    sheet.text(MARGIN, middle, style.name, 15, style.colour, pick.selector == "learned", anchor="lm")
    sheet.draw.line((left, middle, left + side * len(shown) - 1, middle), fill=FAINT)
    for x, index in zip(range(left, left + side * len(shown), side), shown, strict=True):
        if index in pick.indices:
            sheet.draw.rounded_rectangle((x + 3, middle - 7, x + side - 4, middle + 7), 4, fill=style.colour)


def _verdict(sheet: _Sheet, pick: Pick, known: bool, middle: int) -> None:
    """Write what came of a pick; `known` is whether the right answer is."""
    sign, colour = _judged(pick, known)
    answer = "failed" if pick.failed else pick.letter or "no letter"
    note = "" if math.isnan(pick.evidence_recall) else f"evidence {100 * pick.evidence_recall:.0f}%"
    if not pick.valid:
        note = "no frames" if pick.failed else "invalid, uniform"
    x = WIDTH - MARGIN - VERDICTS + 14
    sheet.text(x, middle, f"{sign} {answer}", 15, colour, True, anchor="lm")
    sheet.text(x + 104, middle, note, 13, GREY, anchor="lm")


def _judged(pick: Pick, known: bool) -> tuple[str, str]:
    """Return sign and colour of a reply."""
    if not known and not pick.failed:
        return "?", GREY
    return ("✓", GREEN) if pick.correct else ("✗", VERMILION)


def _learned(sheet: _Sheet, question: Question, frames: Sequence[np.ndarray]) -> None:
    learned = next((pick for pick in question.picks if pick.selector == "learned"), None)
    if learned is None:
        return
    sheet.draw.line((MARGIN, sheet.y, WIDTH - MARGIN, sheet.y), fill=FAINT)
    sheet.y += 12
    sheet.text(MARGIN, sheet.y, "learned selector: the frames that the answerer saw", 15, BLUE, True)
    scale = LARGE / max(frames[0].shape[:2])
    height, width = (round(side * scale) for side in frames[0].shape[:2])
    across = min(4, max(1, len(learned.indices)))
    top = sheet.y + 28
    rows = math.ceil(len(learned.indices) / across)
    sheet.reserve(28 + rows * (height + 22))
    for place, index in enumerate(learned.indices):
        x, y = MARGIN + place % across * (width + 8), top + place // across * (height + 22)
        resample = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
        sheet.image.paste(Image.fromarray(frames[index]).resize((width, height), resample), (x, y))
        sheet.text(x + width // 2, y + height + 3, str(index), 14, anchor="ma")
    bottom = top + rows * (height + 22)
    x = MARGIN + across * (width + 8) + 24
    _words(sheet, question, learned, x, WIDTH - MARGIN - x)
    sheet.y = max(bottom, sheet.y)


def _words(sheet: _Sheet, question: Question, pick: Pick, x: int, width: int) -> None:
    invalid = "" if pick.valid else f" (invalid: {pick.reason}; uniform frames were used)"
    known = bool(question.item.answer)
    outcome = ("right" if pick.correct else "wrong") if known else "truth unknown"
    outcome = f"failed: {pick.failed}" if pick.failed else outcome
    sheet.paragraph(x, width, f"selector's text{invalid}", 15, GREY, True)
    sheet.paragraph(x, width, pick.text or "(none)", 16)
    sheet.y += 8
    sheet.paragraph(x, width, "answerer's reply", 15, GREY, True)
    sheet.paragraph(x, width, pick.reply or "(none)", 16, lines=5)
    letter = f"read as {pick.letter}" if pick.letter else "no letter found"
    sheet.paragraph(x, width, f"{letter}: {outcome}", 16, _judged(pick, known)[1], True, lines=3)
