"""Prompts, and the parsers of what selector and answerer reply."""

import pytest

from viarl.answer.asking import answerer_messages, extract_letter
from viarl.selection.prompt import parse_selection, selector_messages

OPTIONS = ("a star", "a moon", "a cross", "a circle")
SHAPES = ("star", "moon", "cross", "circle")


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
        ("A star", ""),  # an article: the option's text decides, below
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
    ],
)
def test_extract_letter(reply: str, letter: str) -> None:
    expected = "A" if reply == "A star" else letter
    assert extract_letter(reply, OPTIONS) == expected


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
    ("text", "format_valid", "indices", "reason"),
    [
        ("<think>x</think><index>[1, 2, 3]</index>", True, (1, 2, 3), ""),
        ("<think>x</think>\n<index>[ 3,1 , 2 ]</index>\n", True, (1, 2, 3), ""),
        ("<think>a\nb</think><index>[7, 0, 3]</index>", True, (0, 3, 7), ""),
        ("<think></think><index>[0, 1, 2]</index>", True, (0, 1, 2), ""),
        ("<index>[1, 2, 3]</index>", False, (1, 2, 3), ""),  # the index counts without the format
        ("so <think>x</think><index>[1, 2, 3]</index>", False, (1, 2, 3), ""),
        ("<think>x</think><index>[1, 2, 3]</index> done", False, (1, 2, 3), ""),
        ("<think>x</think><index>[1, 2]</index>", True, None, "2 numbers instead of 3"),
        ("<think>x</think><index>[1, 2, 3, 4]</index>", True, None, "4 numbers instead of 3"),
        ("<think>x</think><index>[1, 2, 2]</index>", True, None, "repeated numbers"),
        ("<think>x</think><index>[1, 2, 8]</index>", True, None, "out of range"),
        ("<think>x</think><index>[1, 2, 99999999999999]</index>", True, None, "out of range"),
        ("<think>x</think><index>[1, 2, -3]</index>", True, None, "not a list of numbers"),
        ("<think>x</think><index>[1, 2, 2.5]</index>", True, None, "not a list of numbers"),
        ("<think>x</think><index>1, 2, 3</index>", True, None, "not a list of numbers"),
        ("<think>x</think><index>[1, 2, 3</index>", True, None, "not a list of numbers"),
        ("<think>x</think><index>[]</index>", True, None, "not a list of numbers"),
        ("<think>x</think><index>[1 2 3]</index>", True, None, "not a list of numbers"),
        ("<think>x</think><index>[1, 2, 3]", False, None, "no index block"),
        ("<think>x</think>", False, None, "no index block"),
        ("", False, None, "no index block"),
    ],
)
def test_parse_selection(text: str, format_valid: bool, indices: tuple[int, ...] | None, reason: str) -> None:
    selection = parse_selection(text, count=8, selected=3)
    assert (selection.format_valid, selection.index_valid) == (format_valid, indices is not None)
    assert selection.indices == (indices or (0, 4, 7)) and selection.reason == reason


def test_parse_selection_knows_short_videos() -> None:
    assert parse_selection("<think>x</think><index>[0, 1]</index>", count=2, selected=4).index_valid
    short = parse_selection("<think>x</think><index>[0, 1, 2, 3]</index>", count=2, selected=4)
    assert not short.index_valid and short.indices == (0, 1)


def test_an_earlier_block_inside_the_thoughts_does_not_count() -> None:
    text = "<think>maybe <index>[1, 2, 3]</index>?</think><index>[4, 5, 6]</index>"
    assert parse_selection(text, 8, 3).indices == (4, 5, 6)
    repeated = "<think>x</think><think>y</think><index>[4, 5, 6]</index>"
    assert not parse_selection(repeated, 8, 3).format_valid
    assert parse_selection("<think> see the card </think><index>[4, 5, 6]</index>", 8, 3).thinking == "see the card"


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
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
    ],
)
def test_letters_in_sentences(reply: str, letter: str) -> None:
    assert extract_letter(reply, OPTIONS) == letter


def test_selector_prompt_has_the_true_numbers_and_no_options() -> None:
    messages = selector_messages("paper", "Who runs?", count=20, selected=8)
    system, user = messages[0]["content"][0]["text"], messages[1]["content"]
    assert "20 frames" in system and "from 0 to 19" in system and "8 different" in system
    assert [part["type"] for part in user] == ["video", "text"]
    assert user[1]["text"] == 'The question is "Who runs?"'
    assert "3 frames" in selector_messages("paper", "Who runs?", count=3, selected=8)[0]["content"][0]["text"]


@pytest.mark.parametrize("template", ["paper", "short"])
def test_the_example_in_the_selector_prompt_is_valid(template: str) -> None:
    system = selector_messages("paper", "Who?", count=32, selected=4)[0]["content"][0]["text"]
    example = system[system.rindex("<think>your") : system.rindex("</index>") + len("</index>")]
    assert parse_selection(example, 32, 4).index_valid and parse_selection(example, 32, 4).format_valid
    text = answerer_messages(template, "Who?", OPTIONS, frames=True)[0]["content"][1]["text"]
    assert "B. a moon" in text and text.startswith("Who?")
    assert len(answerer_messages(template, "Who?", OPTIONS, frames=False)[0]["content"]) == 1


def test_paper_answerer_prompt_ends_as_the_authors_do() -> None:
    text = answerer_messages("paper", "Who?", OPTIONS, frames=True)[0]["content"][-1]["text"]
    assert text.endswith("Answer with the option's letter from the given choices directly.")
    assert "\nOptions:\nA. a star\n" in text
