"""Which option a reply names: every notation is read, and what names none, or two, is not."""

import time
from pathlib import Path

import pytest
import yaml

from viarl.answer.letter import extract_letter

OPTIONS = ("a star", "a moon", "a cross", "a circle")
SHAPES = ("star", "moon", "cross", "circle")
CARS = ("a red car", "a blue car", "a green car", "a bike")


@pytest.mark.parametrize(
    ("letter", "reply"),
    [
        (letter.removesuffix("none"), reply)
        for letter, replies in yaml.safe_load(Path(__file__).with_name("replies.yaml").read_text("utf-8")).items()
        for reply in replies
    ],
)
def test_replies(reply: str, letter: str) -> None:
    assert extract_letter(reply, CARS) == letter


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("C", "C"),
        ("C.", "C"),
        ("(C)", "C"),
        ("C)", "C"),
        ("C. a cross", "C"),
        ("C: a cross", "C"),
        ("**C**", "C"),
        ("**C.** a cross", "C"),
        ("\n C \n", "C"),
        ("Answer: C", "C"),  # the authors' first [ABCD] reads A
        ("Answer: C.", "C"),
        ("answer: c", "C"),
        ("Answer:C", "C"),
        ("**Answer:** C", "C"),
        ("Answer: (C)", "C"),
        ("The answer is C", "C"),
        ("The answer is (C) a cross.", "C"),
        ("The correct answer is: C. a cross", "C"),
        ("The correct answer is option C.", "C"),
        ("The correct option is C.", "C"),
        ("Option C", "C"),
        ("Best option: (C)", "C"),
        ("<answer>C</answer>", "C"),
        ("A cross is on the blue card, so C", "C"),
        ("At first I thought A, but the answer is C", "C"),
        ("Because a card is blue: C", "C"),
        ("blue cross C", "C"),
        ("blue star B", "B"),  # the letter counts, not the text
        ("The answer is A.", "A"),
        ("A", "A"),
        ("A star", "A"),  # an article: the option's text decides
        ("the shape is a cross", "C"),
        ("A cross.", "C"),
        ("It is a Moon", "B"),
        ("", ""),
        ("I do not know", ""),
        ("A or B", ""),
        ("A, B, C and D", ""),
        ("a star or a moon", ""),
        ("E", ""),
        ("CD", ""),
        ("I can't say", ""),
        ("Did it?", ""),
        ("The answer is A because the man runs.", "A"),
        ("The answer is C because B is wrong.", "C"),
        ("The answer is B since A and D do not appear.", "B"),
        ("Answer: A as seen in frame 3", "A"),
        ("Option A is correct.", "A"),
        ("A is correct", "A"),
        ("The answer is a star.", "A"),  # the option's text
        ("The answer is a dog.", ""),
        ("Answer: A man is running", ""),
        ("The answer is B or C.", ""),
        ("The answer is (A) man", "A"),
        ("", ""),
    ],
)
def test_shapes(reply: str, letter: str) -> None:
    assert extract_letter(reply, OPTIONS) == letter


@pytest.mark.parametrize("letter", "ABCD")
def test_every_letter_is_read_in_every_form(letter: str) -> None:
    shape = SHAPES["ABCD".index(letter)]
    for form in ("{}", "{}.", "({})", "Answer: {}", "The answer is {}", "answer is ({}) ", "blue " + shape + " {}"):
        assert extract_letter(form.format(letter), SHAPES) == letter


def test_letters_end_with_the_options() -> None:
    assert extract_letter("D", ("yes", "no")) == ""
    assert extract_letter("Answer: B", ("yes", "no")) == "B"
    assert extract_letter("H", tuple("abcdefgh")) == "H"
    assert extract_letter("C", ()) == ""


def test_options_that_contain_each_other_are_told_apart() -> None:
    assert extract_letter("two red cars", ("red cars", "two red cars", "cars", "bikes")) == "B"
    assert extract_letter("12", ("1", "2", "12", "3")) == "C"


@pytest.mark.parametrize(
    ("options", "replies"),
    [
        (
            ("Polish", "polish", "flag", "wax"),
            {"Polish": "A", "polish": "B", "The answer is polish.": "B", "POLISH": ""},
        ),
        (("J. Jones", "A. Smith"), {"A. Smith": "B", "The answer is A. Smith": "B", "A": "A"}),
        (("iron", "vitamin C", "zinc"), {"It is vitamin C.": "B", "vitamin C": "B", "C": "C"}),
        (("one", "two", "Both A and B"), {"Both A and B": "C", "Answer: Both A and B": "C"}),
        (("x1", "x2", "None of the above"), {"None of the above": "C", "The answer is none of the above.": "C"}),
        (("1", "2", "12", "3"), {"Answer: 2": "B", "2": "B", r"\boxed{12}": "C"}),
        (("cafe\u0301", "tea"), {"café": "A", "It is a café.": "A"}),  # composed and decomposed
        (("X-ray machine", "MRI"), {"X-ray machine": "A", "Answer: X-ray machine": "A"}),
        (("Yes", "No"), {"Yes": "A", "No, the car stops.": "B", "Answer: C. A is wrong": ""}),
        (("A is pressed", "B is not pressed"), {"B is not pressed": "B", "A": "A"}),
        (("Blue", "Red", "Blue"), {"Blue": "", "Red": "B", "C": "C"}),
        (tuple("uvwxyzrst"), {"I": "I", "I see a car": "", "The answer is I": "I", "I think it is B": "B"}),
    ],
)
def test_options_that_are_like_letters_or_each_other(options: tuple[str, ...], replies: dict[str, str]) -> None:
    assert {reply: extract_letter(reply, options) for reply in replies} == replies


@pytest.mark.parametrize(
    "piece", ["(", "A, ", ":", "the ", "<think>", "<answer>", "boxed{", "most likely ", "A or ", "A\nB\n"]
)
def test_a_reply_that_runs_on_is_read_in_time(piece: str) -> None:
    start = time.process_time()
    extract_letter(piece * (8000 // len(piece)), CARS)
    assert time.process_time() - start < 2  # quadratic reading took up to a minute
