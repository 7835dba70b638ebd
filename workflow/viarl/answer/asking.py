"""How a question is put to the answerer, and how the option is read from its reply.

`Own` is this project's way, in training everywhere and in evaluation by default; viarl.evaluate.protocols has others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from viarl.answer.letter import extract_letter
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
