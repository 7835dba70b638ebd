"""Options and right answers as the public data sets write them."""

import re
from collections.abc import Sequence

from viarl.datasets.parsed import FEW_OPTIONS, MALFORMED, MISSING, Record, Unusable, texts
from viarl.faults import shown
from viarl.items import LETTERS, in_one_form

_LETTERED = re.compile(r"(?:\(([A-Z])\)|([A-Z])[.:)])\s*(.*)", re.DOTALL)  # "(A) text", "A. text", "A) text", "A: text"
_ANSWER = re.compile(r"(?:\(([A-J])\)|([A-J])(?=[.:)]|$))[.:)]?\s*(.*)", re.DOTALL | re.IGNORECASE)  # or a letter alone


def checked(options: Sequence[str]) -> tuple[str, ...]:
    """Return the options if they are 2 to 10; Unusable otherwise."""
    if not 2 <= len(options) <= len(LETTERS):
        raise Unusable(FEW_OPTIONS, f"{len(options)} options")
    return tuple(options)


def options_of(record: Record, name: str) -> tuple[str, ...]:
    """Return a field that lists the options, as texts without their letters; Unusable where it is no such list."""
    return checked(without_letters(texts(record, name)))


def without_letters(options: Sequence[str]) -> tuple[str, ...]:
    """Remove "A. ", "(A) ", "A) " or "A: " where most options begin with their own letter, or else leave them."""
    found = [_LETTERED.fullmatch(option) for option in options]
    own = [match is not None and (match[1] or match[2]) == at for match, at in zip(found, LETTERS, strict=False)]
    if 2 * sum(own) <= len(options):
        return tuple(options)
    rows = zip(options, found, own, strict=False)
    return tuple(match[3] if match and lettered else option for option, match, lettered in rows)


def split_question(text: str) -> tuple[str, tuple[str, ...]]:
    """Return question and options of a text that holds both: a line an option, "A. …", "(A) …", "A) …" or "A: …".

    The options are the last lines that begin with A, B, C …; a line without a letter goes on with the option before it.
    Unusable where there are no two options, no question, or letters that are out of order.
    """
    lines = [line.strip() for line in text.splitlines()]
    found = [_LETTERED.fullmatch(line) for line in lines]
    letters = [(match[1] or match[2]) if match else "" for match in found]
    for first in reversed([place for place, letter in enumerate(letters) if letter == "A"]):
        options: list[str] = []
        for line, letter, match in zip(lines[first:], letters[first:], found[first:], strict=True):
            if match and letter == LETTERS[len(options) : len(options) + 1]:
                options.append(match[3])
            elif match:
                raise Unusable(MALFORMED, f"the options of {shown(text)} are not A, B, C … in order")
            else:
                options[-1] = f"{options[-1]} {line}".strip()
        if len(options) > 1:
            asked = lines[: first - 1] if first and lines[first - 1] == "Options:" else lines[:first]
            if question := "\n".join(asked).removeprefix("Question:").strip():
                return question, checked(options)
            raise Unusable(MISSING, f"the question before the options of {shown(text)}")
    raise Unusable(FEW_OPTIONS, f"no lines A and B in {shown(text)}")


def letter_of(answer: str, options: Sequence[str]) -> str:
    """Return the letter of an answer that is written "A", "A.", "(A)" or "A. its text", or else is an option's text.

    Small letters are letters too, unless they are an option's text. Texts are compared without full stops and white
    space around them. Unusable for a letter beyond the options, a letter with the text of another option, and a right
    option that is empty or comes twice.
    """
    match = _ANSWER.fullmatch(answer)
    bare = [_bare(option) for option in options]
    letter = (match[1] or match[2]) if match else ""
    if match is None or (letter.islower() and _bare(answer) in bare):
        return letter_of_text(answer, options)
    place, rest = LETTERS.index(letter.upper()), _bare(match[3])
    if rest and (place >= len(bare) or rest != bare[place]):
        if _bare(answer) in bare:
            return letter_of_text(answer, options)
        if rest in bare:
            raise Unusable("letter and text of the answer differ", f"{shown(answer)}; options: {shown(list(options))}")
    if place >= len(options):
        raise Unusable("answer is no option's letter", f"{shown(answer)} of {len(options)} options")
    return _single(place, bare)


def letter_of_text(answer: str, options: Sequence[str]) -> str:
    """Return the letter of an answer that is written as an option's text; Unusable where none or two have that text."""
    bare = [_bare(option) for option in options]
    if (text := _bare(answer)) not in bare:
        raise Unusable("answer not among the options", f"{shown(answer)}; options: {shown(list(options))}")
    return _single(bare.index(text), bare)


def _single(place: int, bare: Sequence[str]) -> str:
    if not bare[place]:
        raise Unusable("right option is empty", f"option {LETTERS[place]} of {shown(list(bare))}")
    if bare.count(bare[place]) > 1:
        raise Unusable("right option comes twice", f"{shown(bare[place])}; options: {shown(list(bare))}")
    return LETTERS[place]


def _bare(text: str) -> str:
    return " ".join(in_one_form(text).split()).rstrip(". ")
