"""How a question is put to the answerer, and how the option is read from its reply.

`Own` is this project's way, in training everywhere and in evaluation by default; viarl.evaluate.protocols has others.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from viarl.items import LETTERS, Item
from viarl.models.settings import SHOWN_AT

Spoken = Callable[[Item, Sequence[int]], str]  # the lines spoken at an item's frames, "" where there are none


class Asking(Protocol):
    """A way of asking: the text behind the sorted frames, and the letter of the option that a reply names, or ""."""

    def text(self, item: Item, frames: Sequence[int]) -> str: ...

    def letter(self, reply: str, item: Item) -> str: ...


def nothing_spoken(item: Item, frames: Sequence[int]) -> str:
    """Return "": the lines where subtitles are not shown."""
    return ""


@dataclass(frozen=True)
class Own:
    """This project's way, with a named template (viarl.answer.asking.ANSWERER_INSTRUCTION)."""

    template: str
    spoken: Spoken = nothing_spoken

    def text(self, item: Item, frames: Sequence[int]) -> str:
        """Return the question with its options, below the lines spoken at the frames, if there are any."""
        lines = self.spoken(item, frames)
        text = answerer_text(self.template, item.question, item.options)
        return f"Spoken at these frames:\n{lines}\n\n{text}" if lines else text

    def letter(self, reply: str, item: Item) -> str:
        """Return the letter as extract_letter reads it."""
        return extract_letter(reply, item.options)


ANSWERER_INSTRUCTION = {"paper": "Answer with the option's letter from the given choices directly.", "short": "Answer."}
# Behind "A": a word that an article can stand before. (No article stands before these; then the A is an option.)
_NOUN = r"\s(?!(?:and|as|at|based|because|but|for|from|in|is|on|or|since|so|that|was|which|with)\b)[a-z]"


def answerer_text(template: str, question: str, options: Sequence[str]) -> str:
    """Return what the answerer is asked: the question, its options, the template's instruction."""
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return "\n".join([question, *(["Options:"] if template == "paper" else []), *lines, ANSWERER_INSTRUCTION[template]])


def answerer_chat(text: str, frames: bool, images: int = 0, times: Sequence[float] = ()) -> list[dict[str, object]]:
    """Return the answerer's chat with this text; `frames` is False for the blind question (no video part).

    `images` shows that many frames as an image each, in place of one video; `times` are told before each, if given.
    """
    video: list[dict[str, str]] = [{"type": "image"}] * images or ([{"type": "video"}] if frames else [])
    for place, time in reversed(list(enumerate(times))):
        video.insert(place, {"type": "text", "text": SHOWN_AT.format(time)})
    return [{"role": "user", "content": [*video, {"type": "text", "text": text}]}]


def answerer_messages(
    template: str, question: str, options: Sequence[str], frames: bool, images: int = 0, times: Sequence[float] = ()
) -> list[dict[str, object]]:
    """Return the answerer's chat about a question, as this project asks it (see `answerer_chat`)."""
    return answerer_chat(answerer_text(template, question, options), frames, images, times)


def _inside(option: str, other: str) -> bool:
    return len(other) > len(option) and option.lower() in other.lower()


def extract_letter(reply: str, options: Sequence[str]) -> str:
    """Return the option letter that a reply names, or "" if none or several remain possible.

    In order: "answer is X" / "Answer: X"; a letter that opens the reply ("B", "B.", "(B)"); a capital letter standing
    alone (an "A" before a word that can follow an article is one); the one option whose text occurs in the reply.
    """
    letters = LETTERS[: len(options)]
    if not letters:
        return ""
    text = reply.strip()
    patterns = (
        rf"answer\s*(?:is|:)?\s*(?:option\s*)?[:\s]*\(?([{letters}])\)?(?![A-Za-z'])"
        rf"(?!(?<=[AI]){_NOUN})(?!\s*(?:or|and|/)\s*\(?[{letters}]\b)",
        rf"^\(?([{letters}])(?:[).:]|,(?!\s*(?:and |or )?[{letters}]\b)|$)",
    )
    for flags, pattern in zip((re.IGNORECASE, 0), patterns, strict=True):
        if found := re.findall(pattern, text, flags):
            return str(found[-1]).upper()
    alone = re.findall(rf"(?<![A-Za-z'])([{letters}])(?![A-Za-z'])", re.sub(rf"\bA(?={_NOUN})", "", text))
    if len(set(alone)) == 1:
        return str(alone[0])
    texts = {letter: option.rstrip(".") for letter, option in zip(letters, options, strict=True) if option}
    named = {letter: own for letter, own in texts.items() if re.search(rf"(?<!\w){re.escape(own)}(?!\w)", text, re.I)}
    # an option inside another that occurs ("cars" in "red cars") is not meant itself
    meant = [letter for letter, own in named.items() if not any(_inside(own, other) for other in named.values())]
    return meant[0] if not alone and len(meant) == 1 else ""
