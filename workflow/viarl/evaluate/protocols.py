"""Evaluation protocols: how other harnesses word each benchmark's questions, and read the option from a reply.

Published figures depend on both by several points. `evaluation.protocol` chooses, for evaluation alone:
- own: this project's prompt (answerer.prompt) and parser, as in training.
- viarl: the authors' prompts and parser (ViaRL at fbea6b7, evaluation/). It reads "Answer: C" as A; kept, to reproduce.
- lmms-eval: prompts and parser of its tasks videomme, videomme_w_subtitle, mlvu_dev and lvbench (0.7.3).

It does not change frames, decoding (answerer.max_new_tokens: ViaRL 128, lmms-eval 16) or metrics.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from viarl.answer.asking import Asking, Own, Spoken, nothing_spoken
from viarl.evaluate.benchmarks import DIRECTLY, Benchmark, Task
from viarl.items import LETTERS, Item

OWN = "own"
_PHRASES_LEFT_OUT = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option is",
    "The correct option is",
    "Best answer:",
    "Best option:",
)
_PHRASES_BEFORE = (
    *(f"{start}answer is" for start in ("", "the ", "correct ", "the correct ", "best ", "the best ", "my ")),
    *(f"{start}option is" for start in ("correct ", "the correct ", "best ", "the best ")),
    *(f"{start}choice is" for start in ("", "the ", "correct ", "the correct ", "my ")),
    *("i choose", "i select", "i pick", "옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)
_PLACES = {6: "({})", 5: "{}.", 4: "{}:", 3: "{})", 2: "{} "}

VIARL = Task(
    f"{{question}}\nOptions:\n{{options}}\n{DIRECTLY}",
    subtitled="This video's subtitles are listed below:\n{spoken}\n"
    f"Question:\n{{question}}\nOptions:\n{{options}}\n{DIRECTLY}",
)
LMMS_EVAL = Task(
    f"{{question}}\n{{options}}\n{DIRECTLY}",
    subtitled=f"This video's subtitles are listed below: \n{{spoken}}\n{{question}}\n{{options}}\n{DIRECTLY}",
)


def first_letter(reply: str, choices: str) -> str:
    """Return the first of the capitals `choices` in a reply without some phrases, "" if none (ViaRL, trimm_results)."""
    for phrase in _PHRASES_LEFT_OUT:
        reply = reply.replace(phrase, "")
    found = re.search(f"[{choices}]", reply)
    return found[0] if found else ""


def best_placed_letter(reply: str, choices: str) -> str:
    """Return the one of `choices` in the most telling place of a reply, "" if none (lmms-eval, mcq_extract).

    Places from the most telling on: a letter that opens the reply, one that ends it, the first one behind a phrase,
    "(A)", "A.", "A:", "A)", "A " (also at the end of a word), anywhere. Of equal places the last one counts.
    """
    text = reply.strip()
    for mark in ",.!?;:'\"":
        text = text.strip(mark)
    inner, text = text.strip(), f" {text} "
    found: list[tuple[int, int, str]] = []  # rank of the place, position, letter
    phrases = [place + len(phrase) for phrase in _PHRASES_BEFORE if (place := text.lower().find(phrase)) >= 0]
    for letter in choices:
        if inner.startswith(letter) and not inner[1:2].isalpha():
            found.append((10, 0, letter))
        if inner.endswith(letter) and not inner[-2:-1].isalpha():
            found.append((9, len(text) - 1, letter))
        found += [(7, text.find(letter, start), letter) for start in phrases]
        found += [(rank, text.rfind(form.format(letter)), letter) for rank, form in _PLACES.items()]
    if named := [place for place in found if place[1] >= 0]:
        return max(named)[2]
    return max(choices, key=text.rfind) if any(letter in text for letter in choices) else ""


@dataclass(frozen=True)
class Foreign:
    """Another harness's way of asking."""

    task: Task
    reader: Callable[[str, str], str]  # reads a letter among given ones from a reply
    spoken: Spoken = nothing_spoken
    subtitled: bool = False  # whether the benchmark is one with subtitles, also where a video has none
    silent: str = ""  # stands in place of the lines where a video has no subtitles; "" asks without them

    def text(self, item: Item, frames: Sequence[int]) -> str:
        """Return the question in the benchmark's form; an open one as it is."""
        if not item.options:
            return item.question
        spoken = self.spoken(item, frames) if item.subtitles else self.silent
        subtitled = (self.subtitled or item.subtitles) and (spoken or self.silent)
        options = [self.task.option.format(letter=LETTERS[place], text=text) for place, text in enumerate(item.options)]
        form = self.task.subtitled if subtitled else self.task.form
        return form.format(question=item.question, options="\n".join(options), spoken=spoken)

    def letter(self, reply: str, item: Item) -> str:
        """Return the letter that the harness reads, "" where the item has no such option."""
        letter = self.reader(reply, LETTERS[: max(len(item.options), 4)])
        return letter if letter in LETTERS[: len(item.options)] else ""


PROTOCOLS: dict[str, tuple[Task, Callable[[str, str], str], str]] = {  # generic form, reader, what silence is called
    "viarl": (VIARL, first_letter, ""),
    "lmms-eval": (LMMS_EVAL, best_placed_letter, "No subtitles available"),
}


def protocol(
    name: str, template: str, about: Benchmark, spoken: Spoken = nothing_spoken, subtitled: bool = False
) -> Asking:
    """Return a protocol's way to ask a benchmark; `template` names the own prompt. ValueError for an unknown name."""
    if name == OWN:
        return Own(template, spoken)
    if name not in PROTOCOLS:
        raise ValueError(f"evaluation.protocol {name!r} is unknown; choose one of {[OWN, *PROTOCOLS]}")
    generic, reader, silent = PROTOCOLS[name]
    task = about.wording.get(name, generic)
    return Foreign(replace(task, subtitled=task.subtitled or generic.subtitled), reader, spoken, subtitled, silent)
