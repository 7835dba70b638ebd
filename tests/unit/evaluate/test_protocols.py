"""The wording of every protocol and benchmark, pinned; how each reads letters; subtitles in prompts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from viarl.answer.asking import answerer_text
from viarl.answer.letter import extract_letter
from viarl.datasets import mlvu_repacked
from viarl.datasets.hub.sets import SETS
from viarl.evaluate.benchmarks import Benchmark, benchmark
from viarl.evaluate.protocols import PROTOCOLS, best_placed_letter, first_letter, protocol
from viarl.evaluate.spoken import SpokenLines
from viarl.items import Item

ITEM = Item("q", "v", "What is {shown}?", ("a cat", "a dog", "a bird", "a fox"), "B")
DIRECTLY = "Answer with the option's letter from the given choices directly."
LETTERED = "A. a cat\nB. a dog\nC. a bird\nD. a fox"
DOTTED = "A. a cat.\nB. a dog.\nC. a bird.\nD. a fox."
IN_BRACKETS = "(A) a cat\n(B) a dog\n(C) a bird\n(D) a fox"
SELECT = (
    "Select the best answer to the following multiple-choice question based on the video and the subtitles. Respond "
    "with only the letter (A, B, C, or D) of the correct option."
)
PROMPTS = {
    ("viarl", "videomme"): f"What is {{shown}}?\nOptions:\n{LETTERED}\n{DIRECTLY}",
    ("viarl", "mlvu"): f"What is {{shown}}?\nOptions:\n{DOTTED}\n{DIRECTLY}",
    ("viarl", "mlvu_repacked"): f"What is {{shown}}?\nOptions:\n{DOTTED}\n{DIRECTLY}",
    ("viarl", "lvbench"): f"What is {{shown}}?\nOptions:\n{LETTERED}.\n{DIRECTLY}",
    ("viarl", "needle"): f"What is {{shown}}?\nOptions:\n{LETTERED}\n{DIRECTLY}",
    ("lmms-eval", "videomme"): f"{SELECT}\nWhat is {{shown}}?\n{LETTERED}\n\n{DIRECTLY}",
    ("lmms-eval", "mlvu"): f"What is {{shown}}?\n{IN_BRACKETS}\nOnly give the best option.\nBest option: (",
    ("lmms-eval", "mlvu_repacked"): f"What is {{shown}}?\n{IN_BRACKETS}\nOnly give the best option.\nBest option: (",
    ("lmms-eval", "lvbench"): f"What is {{shown}}?\n{IN_BRACKETS}\nAnswer the question with the option letter",
    ("lmms-eval", "needle"): f"What is {{shown}}?\n{LETTERED}\n{DIRECTLY}",
    ("own", "videomme"): "What is {shown}?\nA. a cat\nB. a dog\nC. a bird\nD. a fox\nAnswer.",
}
SRT = (
    '1\n00:00:00,500 --> 00:00:02,000\n<font color="white" size=".72c">first words</font>\n\n'
    '2\n00:00:04,000 --> 00:00:06,000\n<font color="white" size=".72c">last words</font>\n\n'
)


PLAIN = Benchmark()


def about(name: str) -> Benchmark:
    return benchmark(SETS[name].benchmark) if name in SETS else PLAIN


class Times:
    """A cache that knows the times of candidate frames, one a second."""

    def times(self, video: str) -> np.ndarray:
        return np.arange(10, dtype=np.float64)


def spoken_lines(folder: Path) -> SpokenLines:
    (folder / "v.srt").write_text(SRT)
    return SpokenLines([SPEAKING], folder, Times())  # type: ignore[arg-type]


SPEAKING = replace(ITEM, source="videomme", subtitles="v.srt")


@pytest.mark.parametrize(("name", "source"), PROMPTS)
def test_prompts_are_frozen(name: str, source: str) -> None:
    assert protocol(name, "short", about(source)).text(ITEM, [1, 2]) == PROMPTS[name, source]


@pytest.mark.parametrize("template", ["short", "paper"])
def test_own_asks_and_reads_as_training_does(template: str) -> None:
    own = protocol("own", template, PLAIN)
    assert own.text(ITEM, [1]) == answerer_text(template, ITEM.question, ITEM.options)
    assert own.letter("Answer: C", ITEM) == extract_letter("Answer: C", ITEM.options) == "C"


def test_the_papers_template_is_the_viarl_form_of_video_mme() -> None:
    assert answerer_text("paper", ITEM.question, ITEM.options) == PROMPTS["viarl", "videomme"]


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("B", "B"),
        ("(B) a dog", "B"),
        ("The answer is C", "C"),
        ("The correct option is D.", "D"),
        ("Best option: (B", "B"),
        ("Answer: C", "A"),  # the A of Answer, as the authors read it
        ("A dog, so B", "A"),
        ("the answer is b", ""),
        ("E", ""),
        ("", ""),
        ("i do not know which of the four it is at all", ""),
    ],
)
def test_viarl_takes_the_first_capital(reply: str, letter: str) -> None:
    assert protocol("viarl", "short", PLAIN).letter(reply, ITEM) == letter == first_letter(reply, "ABCD")


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("B", "B"),
        ("B. a dog", "B"),
        ("(B) a dog", "B"),
        ("Answer: C", "C"),
        ("A or B, so C", "A"),  # a letter that opens the reply tells more than one that ends it
        ("It is A. No, the answer is D, not B", "B"),  # an ending letter tells more than a phrase
        ("the answer is B, not A indeed", "A"),  # of the first ones behind the phrase, the last
        ("(A) no, (C) yes they say", "C"),
        ("maybe A: or B) hm", "A"),
        ("the NBA final", "A"),
        ("xCx", "C"),
        ("정답은 B입니다", "B"),
        ("the answer is b", ""),
        ("'A'!", "A"),
        ("...", ""),
        ("", ""),
        ("E", ""),
    ],
)
def test_lmms_eval_takes_the_best_placed_capital(reply: str, letter: str) -> None:
    assert protocol("lmms-eval", "short", PLAIN).letter(reply, ITEM) == letter == best_placed_letter(reply, "ABCD")


@pytest.mark.parametrize("name", PROTOCOLS)
def test_letters_beyond_the_options_name_none_and_more_than_four_options_are_read(name: str) -> None:
    few = replace(ITEM, options=("yes", "no"))
    many = replace(ITEM, options=tuple("12345"))
    read = protocol(name, "short", PLAIN).letter
    assert read("D", few) == "" and read("E", many) == "E"


@pytest.mark.parametrize("name", PROTOCOLS)
def test_open_questions_are_asked_as_they_are(name: str) -> None:
    asking = protocol(name, "short", PLAIN)
    unanswered = replace(ITEM, options=(), answer="")
    assert asking.text(unanswered, [0]) == ITEM.question and asking.letter("A", unanswered) == ""


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("own", f"Spoken at these frames:\n{{}}\n\n{ITEM.question}\n{LETTERED}\nAnswer."),
        (
            "viarl",
            f"This video's subtitles are listed below:\n{{}}\nQuestion:\n{ITEM.question}\nOptions:\n{LETTERED}\n"
            f"{DIRECTLY}",
        ),
        (
            "lmms-eval",
            f"This video's subtitles are listed below: \n{{}}\n{SELECT}\n{ITEM.question}\n{LETTERED}\n"
            "The best answer is:",
        ),
    ],
)
def test_subtitles_show_the_lines_at_the_selected_frames(name: str, prompt: str, tmp_path: Path) -> None:
    asking = protocol(name, "short", about("videomme_subtitles"), spoken_lines(tmp_path), subtitled=True)

    def expected(lines: str) -> str:
        return prompt.replace("{}", lines, 1)

    assert asking.text(SPEAKING, [1, 5]) == expected("first words\nlast words")
    assert asking.text(SPEAKING, [4]) == expected("last words")
    without = replace(SPEAKING, subtitles="")
    plain = protocol(name, "short", about("videomme")).text(without, [1, 5])
    # nothing is said at these frames, or the video has no subtitles: lmms-eval says so, the others ask plainly
    assert asking.text(SPEAKING, [2, 3]) == (expected("") if name == "lmms-eval" else plain)
    assert asking.text(SPEAKING, []) == (expected("") if name == "lmms-eval" else plain)
    assert asking.text(without, [1]) == (expected("No subtitles available") if name == "lmms-eval" else plain)


@pytest.mark.parametrize("listed", [True, False])
def test_options_of_the_repacked_mlvu_stand_once_in_its_prompt(listed: bool, tmp_path: Path) -> None:
    row = {"video_name": "needle_1.mp4", "task_type": "needle", "duration": 1.0, "answer": "B", "question_id": "1"}
    row |= {"question": f"{ITEM.question}\n{IN_BRACKETS}"} | ({"candidates": list(ITEM.options)} if listed else {})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "test-0.parquet")
    (found,) = mlvu_repacked.parse({"test-0.parquet": tmp_path / "test-0.parquet"}).items
    asking = protocol("lmms-eval", "short", about("mlvu_repacked"))
    assert asking.text(found, [0]) == PROMPTS["lmms-eval", "mlvu_repacked"]


def test_a_missing_subtitle_file_is_named_before_anything_is_asked(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"v\.srt"):
        SpokenLines([SPEAKING], tmp_path, Times())  # type: ignore[arg-type]


def test_unknown_protocols_are_refused() -> None:
    with pytest.raises(ValueError, match=r"evaluation\.protocol 'other' is unknown; choose one of .*'lmms-eval'"):
        protocol("other", "short", PLAIN)


def test_the_answerer_asks_in_the_protocols_way() -> None:
    from small_answerer import MemoryCache, item, small_answerer
    from viarl.answer.answerer import Request

    class Heard:
        """The lmms-eval way, noting what is asked."""

        asking = protocol("lmms-eval", "short", about("mlvu"))

        def __init__(self) -> None:
            self.texts: list[str] = []

        def text(self, item: Item, frames: Any) -> str:
            self.texts.append(self.asking.text(item, frames))
            assert list(frames) == sorted(frames)
            return self.texts[-1]

        def letter(self, reply: str, item: Item) -> str:
            return "D"

    heard = Heard()
    answerer = small_answerer(MemoryCache({"v0": 4}), 2, max_new_tokens=4, asking=heard)
    own = item(0)
    own_way = small_answerer(MemoryCache({"v0": 4}), 2, max_new_tokens=4)
    request = Request(own, (3, 1))
    assert answerer.answer([request])[0].letter == "D"
    assert heard.texts == [
        f"{own.question}\n(A) star\n(B) moon\n(C) cross\n(D) circle\nOnly give the best option.\nBest option: ("
    ]
    assert answerer.answer([request])[0].text != own_way.answer([request])[0].text
