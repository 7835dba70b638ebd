"""The reward table, the gate between index and answer, and what the answerer is asked."""

from dataclasses import dataclass, replace

import pytest

from small_selector import WEIGHTS
from viarl.answer.base import Reply
from viarl.items import Item
from viarl.sections import build
from viarl.selection.prompt import parse_selection
from viarl.training.rl.reward import Outcome, total, weighted
from viarl.training.rl.scoring import score_completions
from viarl.training.rl.settings import SelectorTask, Training, Weights

TRAINING = Training(algorithm="reinforce++", steps=1, prompts_per_step=1, group_size=2, learning_rate=1e-4)
TASK = SelectorTask(TRAINING, 2, 20, (8, 12), WEIGHTS)
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
    outcome = Outcome(ITEM, parse_selection(text, 9, 2), Reply("", "B" if correct else "A"), tokens)
    reward = weighted(outcome, TASK)
    assert reward == dict(zip(("format", "index", "answer", "length"), expected, strict=True))
    assert list(reward) == ["format", "index", "answer", "length"]  # the order in which they are added
    assert total(reward) == ((expected[0] + expected[1]) + expected[2]) + expected[3]


def test_weights_scale_the_parts_and_zero_switches_one_off():
    outcome = Outcome(ITEM, parse_selection(GOOD, 9, 2), Reply("B", "B"), 10)
    reward = weighted(outcome, replace(TASK, reward={"format": 0.5, "index": 0.0, "answer": 3.0}))
    assert reward == {"format": 0.5, "index": 0.0, "answer": 3.0, "length": 0.0}  # one without a weight is logged too


@dataclass(frozen=True)
class Told:
    """What a stage is told of the reward."""

    reward: Weights


def test_a_weight_of_no_part_is_refused():
    with pytest.raises(ValueError, match=r"reward\.lenght = 0\.2: unknown key; did you mean 'length'"):
        build(Told, {"reward": {"lenght": 0.2}})


class Recorder:
    """An answerer that always says B and keeps what it was asked."""

    def __init__(self):
        self.calls = []

    def answer(self, requests):
        self.calls.append([request.frames for request in requests])
        return [Reply("B", "B") for _ in requests]


def score(items, texts, answers):
    counts, lengths = [9] * len(items), [10] * len(items)
    return score_completions(items, counts, texts, lengths, answers, TASK)


def test_every_completion_is_answered_in_one_call_and_invalid_ones_on_uniform_frames():
    answers = Recorder()
    scored = score([ITEM, ITEM], [GOOD, "nothing"], answers)
    assert answers.calls == [[(1, 3), (0, 8)]]
    assert [one.outcome.correct for one in scored] == [True, True]  # both are logged as right
    assert [one.reward["answer"] for one in scored] == [2, 0]  # but only the valid list earns it


def test_an_item_of_unknown_truth_earns_no_answer_reward():
    unknown = Item("q", "v", "Which?", ("x", "y"), "")

    class Silent(Recorder):
        def answer(self, requests):
            return [Reply("", "") for _ in requests]

    (one,) = score([unknown], [GOOD], Silent())
    assert not one.outcome.correct and one.reward["answer"] == 0
