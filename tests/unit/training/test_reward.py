"""The reward table, the gate between index and answer, and what the answerer is asked."""

import pytest

from viarl.answer.answerer import Reply
from viarl.items import Item
from viarl.selection.prompt import parse_selection
from viarl.training.rl.reward import composite_reward, score_completions
from viarl.training.rl.settings import RewardWeights

WEIGHTS = RewardWeights()
GOOD = "<think>blue</think><index>[3, 1]</index>"
ITEM = Item("q", "v", "Which?", ("x", "y"), "B")


@pytest.mark.parametrize(
    ("text", "correct", "tokens", "expected"),
    [
        (GOOD, True, 10, (1, 1, 2, 0.2)),
        (GOOD, False, 10, (1, 1, 0, 0.2)),
        (GOOD, True, 7, (1, 1, 2, 0)),  # too short
        (GOOD, True, 8, (1, 1, 2, 0.2)),  # both bounds belong to the range
        (GOOD, True, 12, (1, 1, 2, 0.2)),
        (GOOD, True, 13, (1, 1, 2, 0)),
        ("<index>[3, 1]</index>", True, 10, (0, 1, 2, 0.2)),  # no think block: the list still counts
        (GOOD + " Done.", True, 10, (0, 1, 2, 0.2)),  # format is about the whole text
        ("<think>blue</think><index>[3, 3]</index>", True, 10, (1, 0, 0, 0.2)),  # answer gated by index
        ("<think>blue</think><index>[3, 9]</index>", True, 10, (1, 0, 0, 0.2)),  # out of range
        ("<think>blue</think><index>[1, 2, 3]</index>", True, 10, (1, 0, 0, 0.2)),  # three for two
        ("nothing", True, 10, (0, 0, 0, 0.2)),
    ],
)
def test_table(text, correct, tokens, expected):
    reward = composite_reward(parse_selection(text, 9, 2), tokens, correct, WEIGHTS, (8, 12))
    assert (reward.format, reward.index, reward.answer, reward.length) == expected
    assert reward.total == pytest.approx(sum(expected))


def test_weights_scale_the_parts_and_zero_switches_one_off():
    weights = RewardWeights(format=0.5, index=0.0, answer=3.0, length=0.0)
    reward = composite_reward(parse_selection(GOOD, 9, 2), 10, True, weights, (8, 12))
    assert (reward.format, reward.index, reward.answer, reward.length) == (0.5, 0.0, 3.0, 0.0)


class Recorder:
    """An answerer that always says B and keeps what it was asked."""

    def __init__(self):
        self.calls = []

    def answer(self, requests):
        self.calls.append([request.frames for request in requests])
        return [Reply("B", "B") for _ in requests]


def score(items, texts, answers):
    counts, lengths = [9] * len(items), [10] * len(items)
    return score_completions(items, counts, texts, lengths, answers, selected=2, weights=WEIGHTS, length_range=(8, 12))


def test_every_completion_is_answered_in_one_call_and_invalid_ones_on_uniform_frames():
    answers = Recorder()
    scored = score([ITEM, ITEM], [GOOD, "nothing"], answers)
    assert answers.calls == [[(1, 3), (0, 8)]]
    assert [one.correct for one in scored] == [True, True]  # both are logged as right
    assert [one.reward.answer for one in scored] == [2, 0]  # but only the valid list earns it


def test_an_item_of_unknown_truth_earns_no_answer_reward():
    unknown = Item("q", "v", "Which?", ("x", "y"), "")

    class Silent(Recorder):
        def answer(self, requests):
            return [Reply("", "") for _ in requests]

    (one,) = score([unknown], [GOOD], Silent())
    assert not one.correct and one.reward.answer == 0
