"""The selector's prompt, and the parser of what it replies.

The selector sees the question without its options (paper, section 3). Each prompt is a named template so that a setting
chooses it; `paper` follows the authors' instructions in our own words, `short` is its counterpart for models with a
small context.
"""

import re
from dataclasses import dataclass

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
_FORMAT = re.compile(r"\s*<think>(?P<think>(?:(?!</think>).)*)</think>\s*<index>(?P<list>[^<>]*)</index>\s*", re.DOTALL)
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
