"""ViaRL_data: the 8,000 questions on LLaVA-Video's videos that the paper's stages train on, three drawings.

2_3_m_youtube_mc_v0_1_qa_rl_random_8k.jsonl (stage 1, 8 frames), …_rl_random_8k_16frames.jsonl (stage 1, 16 frames) and
…_qa_random_8k.jsonl (stage 2) hold a question a line: problem (the question, then a line an option), solution
"<answer>A</answer>", problem_type (multi_choice or open_ended), video, original_question, original_answer.
The videos are LLaVA-Video-178K's.
"""

import re
from dataclasses import replace
from pathlib import Path, PurePosixPath

from viarl.datasets import llava_video
from viarl.datasets.choices import letter_of
from viarl.datasets.llava_video import asked_of, video_of
from viarl.datasets.parsed import MALFORMED, Notes, Parsed, Record, Unusable, text
from viarl.faults import shown
from viarl.items import Item

PREFIX = "2_3_m_youtube_mc_v0_1_qa_"
ANNOTATIONS = (f"{PREFIX}*.jsonl",)
ARCHIVES = llava_video.ARCHIVES


def parse(files: dict[str, Path]) -> Parsed:
    """Return the questions, each once: Item.groups names every drawing that holds it, "part=rl_random_8k"."""
    found = Parsed("viarl_data")
    seen: dict[tuple[str, str, tuple[str, ...]], str] = {}  # the ids by video, question and options
    for where, name, number, record in found.read(files):
        part = PurePosixPath(name).stem.removeprefix(PREFIX)
        item = found.add(where, _item, record, part, number)
        if item is None:
            continue
        first = seen.setdefault((item.video, item.question, item.options), item.id)
        if first != item.id:
            earlier = found.by_id[first]
            found.by_id[first] = replace(earlier, groups=tuple(dict.fromkeys((*earlier.groups, *item.groups))))
            found.take_back(item, where, Unusable("question comes twice", f"it is {first}"))
    return found


def _item(record: Record, part: str, number: int, _: Notes) -> tuple[Item, str]:
    kind = text(record, "problem_type")
    if kind == "open_ended":
        raise Unusable("open-ended question")
    if kind != "multi_choice":
        raise Unusable(MALFORMED, f"problem_type: {shown(kind)} is neither multi_choice nor open_ended")
    video, member = video_of(record)
    question, options = asked_of(text(record, "problem"))
    solution = text(record, "solution")
    if not (answer := re.fullmatch(r"<answer>\s*(.*?)\s*</answer>", solution, re.DOTALL)):
        raise Unusable(MALFORMED, f"solution: {shown(solution)} is not <answer>…</answer>")
    letter = letter_of(answer[1], options)
    return Item(f"{video}-{part}-{number}", video, question, options, letter, groups=(f"part={part}",)), member
