"""The texts that selector and answerer stand-ins read and write, and the one tokenizer trained on them.

Every colour, shape and word of the questions becomes a single token, at the start of a text and after a space.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from transformers import Qwen2Tokenizer

from viarl.answer.asking import answerer_messages
from viarl.datasets.needle import COLOURS, SHAPES, TEMPORAL_TASKS
from viarl.items import LETTERS
from viarl.selection.prompt import selector_messages
from viarl.stand_ins.architecture import build_tokenizer

NOT_SEEN = "none"  # in place of the shape, where no frame shows the card
TEMPLATE = "short"
_TEXTS = 4000
_SEED = 0  # of the corpus; the tokenizer is the same whatever the stand-ins' own seed


def time_words(task: str, marker: str) -> str:
    """Return the words of time of a needle task with a leading space, "" for the task "none"."""
    words = f" at the {task}" if task in ("beginning", "end") else f" {task} the {marker} card"
    return "" if task == "none" else words


def question_text(colour: str, task: str, marker: str) -> str:
    """Return the question of a needle task, worded as the data set words it."""
    return f"Which shape is on the {colour} card{time_words(task, marker)}?"


def thought(colour: str, task: str = "none", marker: str = "") -> str:
    """Return what a selector stand-in thinks before it lists frames: the keywords of the question."""
    return f"find the {colour} card{time_words(task, marker)}"


def reply(colour: str, shape: str, letter: str) -> str:
    """Return what an answerer stand-in replies: the card it looked for, the shape it saw (or NOT_SEEN), the letter."""
    return f"{colour} {shape} {letter}"


def _chat(messages: list[dict[str, Any]], completion: str) -> str:
    parts = [(one["role"], "".join(part.get("text", "") for part in one["content"])) for one in messages]
    return "".join(f"{role}\n{text}\n" for role, text in parts) + f"assistant\n{completion}"


def texts(frames: int) -> Iterator[str]:
    """Yield chats of selector and answerer over random questions, for videos of `frames` candidates.

    The number lists hold single digits only: larger numbers are tokens of their own and must not be merged.
    """
    rng = np.random.default_rng(_SEED)
    for _ in range(_TEXTS):
        colour, marker = (str(name) for name in rng.choice(COLOURS, 2, replace=False))
        task = "none" if rng.random() < 0.3 else str(rng.choice(TEMPORAL_TASKS))
        shapes = [str(shape) for shape in rng.permutation(SHAPES)[:4]]
        asked = question_text(colour, task, marker)
        numbers = ", ".join(str(number) for number in rng.integers(0, 10, 4))
        selection = f"<think>{thought(colour, task, marker)}</think><index>[{numbers}]</index>"
        seen = NOT_SEEN if rng.random() < 0.1 else str(rng.choice(SHAPES))
        answer = reply(colour, seen, LETTERS[int(rng.integers(4))])
        yield _chat(selector_messages(TEMPLATE, asked, frames, 4), selection)
        yield _chat(answerer_messages(TEMPLATE, asked, shapes, frames=True), answer)


def stand_in_tokenizer(frames: int) -> Qwen2Tokenizer:
    """Train the shared tokenizer; the numbers 10..frames-1 are single tokens."""
    return build_tokenizer(texts(frames), frames)
