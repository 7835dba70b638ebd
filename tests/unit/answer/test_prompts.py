"""Prompts, and the parser of what the selector replies."""

import pytest

from viarl.answer.asking import answerer_messages
from viarl.selection.prompt import parse_selection, selector_messages

OPTIONS = ("a star", "a moon", "a cross", "a circle")


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
