"""The selector's prompt, and the parser of what it replies.

The selector sees the question without its options (paper, section 3). The prompt `paper` follows the authors'
instructions in our own words, `short` is its counterpart for models with a small context.
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
    """What a selector's completion says."""

    format_valid: bool
    index_valid: bool
    indices: tuple[int, ...]  # sorted and always usable: the selector's own where valid, else the uniform fallback
    reason: str  # why the list is not valid, "" where it is
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
    match = _FORMAT.fullmatch(text)
    block = match["list"] if match else (re.findall(r"<index>([^<>]*)</index>", text) or [None])[-1]
    thinking = match["think"].strip() if match else ""
    digits = re.findall(r"\d+", block or "")
    numbers = [int(number) for number in digits if len(number) <= 9]
    reason = ""
    if block is None:
        reason = "no index block"
    elif not _LIST.fullmatch(block.strip()):
        reason = "not a list of numbers"
    elif len(numbers) != len(digits):
        reason = "out of range"
    elif len(numbers) != wanted:
        reason = f"{len(numbers)} numbers instead of {wanted}"
    elif len(set(numbers)) != len(numbers):
        reason = "repeated numbers"
    elif max(numbers) >= count:
        reason = "out of range"
    indices = uniform(count, selected) if reason else sorted(numbers)
    return Selection(match is not None, not reason, tuple(indices), reason, thinking)
