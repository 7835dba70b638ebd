"""Prompts of selector and answerer, and the parsers of what they reply.

The selector sees the question without its options (paper, section 3); the answerer sees both. Each prompt is a named
template so that a setting chooses it; `paper` follows the authors' instructions in our own words, `short` is its
counterpart for models with a small context.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from viarl.items import LETTERS
from viarl.selection.uniform import uniform

SELECTOR_SYSTEM = {
    "paper": (
        "You choose frames of a video for a colleague who must answer a question about it and will see only the "
        "frames you choose. The video is given as {count} frames; each carries its index, from 0 to {last}, in red "
        "at its bottom right. Work in three steps. 1. Find the keywords of the question: objects, persons, actions, "
        "places, and words of time such as 'beginning', 'end', 'before', 'after'. 2. Describe where these appear in "
        "the numbered frames. 3. List the {selected} frames that help most to answer the question. Write your "
        "thoughts between <think> and </think>, then the list between <index> and </index>, for example "
        "<think>your reasoning</think><index>[{example}]</index>. The list holds exactly {selected} different "
        "numbers."
    ),
    "short": "Name {selected} of {count} frames.",
}
ANSWERER_INSTRUCTION = {
    "paper": "Answer with the option's letter from the given choices directly.",
    "short": "Answer.",
}

_FORMAT = re.compile(r"\s*<think>(?P<think>(?:(?!</think>).)*)</think>\s*<index>(?P<list>[^<>]*)</index>\s*", re.DOTALL)
# Behind "A": a word that an article can stand before. (No article stands before these; then the A is an option.)
_NOUN = r"\s(?!(?:and|as|at|based|because|but|for|from|in|is|on|or|since|so|that|was|which|with)\b)[a-z]"
_LIST = re.compile(r"\[\s*\d+\s*(?:,\s*\d+\s*)*\]")


@dataclass(frozen=True)
class Selection:
    """What a selector's completion says.

    `indices` are sorted and always usable: the selector's own where `index_valid`, else the uniform fallback.
    `reason` says in a word why the list is not valid ("" where it is).
    """

    format_valid: bool
    index_valid: bool
    indices: tuple[int, ...]
    reason: str
    thinking: str = ""


def selector_messages(template: str, question: str, count: int, selected: int) -> list[dict[str, object]]:
    """Return the selector's chat for a video of `count` candidate frames, of which it names `selected`."""
    selected = min(selected, count)
    system = SELECTOR_SYSTEM[template].format(
        count=count, last=count - 1, selected=selected, example=", ".join(map(str, uniform(count, selected)))
    )
    user = [{"type": "video"}, {"type": "text", "text": f'The question is "{question}"'}]
    return [{"role": "system", "content": [{"type": "text", "text": system}]}, {"role": "user", "content": user}]


def answerer_text(template: str, question: str, options: Sequence[str]) -> str:
    """Return what the answerer is asked: the question, its options, the template's instruction."""
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return "\n".join([question, *(["Options:"] if template == "paper" else []), *lines, ANSWERER_INSTRUCTION[template]])


def answerer_chat(text: str, frames: bool, images: int = 0) -> list[dict[str, object]]:
    """Return the answerer's chat with this text; `frames` is False for the blind question (no video part).

    `images` shows that many frames as an image each, in place of one video.
    """
    video: list[dict[str, str]] = [{"type": "image"}] * images or ([{"type": "video"}] if frames else [])
    return [{"role": "user", "content": [*video, {"type": "text", "text": text}]}]


def answerer_messages(
    template: str, question: str, options: Sequence[str], frames: bool, images: int = 0
) -> list[dict[str, object]]:
    """Return the answerer's chat about a question, as this project asks it (see `answerer_chat`)."""
    return answerer_chat(answerer_text(template, question, options), frames, images)


def parse_selection(text: str, count: int, selected: int) -> Selection:
    """Parse a selector completion against the video's true index range 0..count-1 (see `Selection`).

    Format: the whole text is a think block followed by an index block. Index: exactly min(selected, count) numbers,
    all different, all in range.
    """
    wanted = min(selected, count)
    fallback = tuple(uniform(count, selected))
    match = _FORMAT.fullmatch(text)
    block = match["list"] if match else (re.findall(r"<index>([^<>]*)</index>", text) or [None])[-1]
    thinking = match["think"].strip() if match else ""

    def invalid(reason: str) -> Selection:
        return Selection(match is not None, False, fallback, reason, thinking)

    if block is None:
        return invalid("no index block")
    if not _LIST.fullmatch(block.strip()):
        return invalid("not a list of numbers")
    digits = re.findall(r"\d+", block)
    if max(map(len, digits)) > 9:
        return invalid("out of range")
    numbers = [int(number) for number in digits]
    if len(numbers) != wanted:
        return invalid(f"{len(numbers)} numbers instead of {wanted}")
    if len(set(numbers)) != len(numbers):
        return invalid("repeated numbers")
    if max(numbers) >= count:
        return invalid("out of range")
    return Selection(match is not None, True, tuple(sorted(numbers)), "", thinking)


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
    named = {
        letter: option
        for letter, option in texts.items()
        if re.search(rf"(?<!\w){re.escape(option)}(?!\w)", text, re.IGNORECASE)
    }
    # an option inside another that occurs ("cars" in "red cars") is not meant itself
    meant = [
        letter
        for letter, option in named.items()
        if not any(len(other) > len(option) and option.lower() in other.lower() for other in named.values())
    ]
    return meant[0] if not alone and len(meant) == 1 else ""
