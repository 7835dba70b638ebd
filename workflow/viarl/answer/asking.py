"""How a question is put to the answerer, and how the option is read from its reply.

`Own` is this project's way, in training everywhere and in evaluation by default; viarl.evaluate.protocols has others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from viarl.items import Item
from viarl.prompts import answerer_text, extract_letter

Spoken = Callable[[Item, Sequence[int]], str]  # the lines spoken at an item's frames, "" where there are none


class Asking(Protocol):
    """A way of asking; what it returns depends on its arguments alone."""

    def text(self, item: Item, frames: Sequence[int]) -> str:
        """Return the text that stands behind the frames, which are sorted; none for the blind question."""

    def letter(self, reply: str, item: Item) -> str:
        """Return the letter of the item's option that a reply names, "" where none is found."""


def nothing_spoken(item: Item, frames: Sequence[int]) -> str:
    """Return "": the lines where subtitles are not shown."""
    return ""


@dataclass(frozen=True)
class Own:
    """This project's way, with a named template (viarl.prompts.ANSWERER_INSTRUCTION)."""

    template: str
    spoken: Spoken = nothing_spoken

    def text(self, item: Item, frames: Sequence[int]) -> str:
        """Return the question with its options, below the lines spoken at the frames, if there are any."""
        lines = self.spoken(item, frames)
        text = answerer_text(self.template, item.question, item.options)
        return f"Spoken at these frames:\n{lines}\n\n{text}" if lines else text

    def letter(self, reply: str, item: Item) -> str:
        """Return the letter as viarl.prompts.extract_letter reads it."""
        return extract_letter(reply, item.options)
