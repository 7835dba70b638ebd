"""Macro and micro means and their intervals against examples worked out by hand; groups and headlines in eval.json."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pytest

from viarl.datasets.hub.sets import SETS
from viarl.evaluate.benchmarks import Headline, benchmark
from viarl.evaluate.headlines import macro_means, members
from viarl.evaluate.statistics import clustered_means
from viarl.evaluate.summary import summarise
from viarl.files import read_json
from viarl.report.comparison import tables

HEADLINES = {name: benchmark(made.benchmark).headlines for name, made in SETS.items()}
EVAL_SCHEMA = read_json(Path(__file__).parents[3] / "workflow/schemas/eval.schema.json")

# Three videos. a: two items of group x, one right. b: one item of x, wrong; one of y, right. c: four items of y, wrong.
VALUES = np.array([1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0])[:, None]
VIDEOS = list("aabbcccc")
X = np.array([True, True, True, False, False, False, False, False])
# Their 27 resamples, by how often each video is drawn; (x right, x all, y right, y all) is (1, 2, 0, 0) in a,
# (0, 1, 1, 1) in b and (0, 0, 0, 4) in c; a group that is not drawn is left out.
MEANS = {
    (3, 0, 0): 1 / 2,  # aaa: x alone, 3 of 6
    (2, 1, 0): (2 / 5 + 1) / 2,
    (2, 0, 1): (2 / 4 + 0) / 2,
    (1, 2, 0): (1 / 4 + 1) / 2,
    (1, 1, 1): (1 / 3 + 1 / 5) / 2,
    (1, 0, 2): (1 / 2 + 0) / 2,
    (0, 3, 0): (0 + 1) / 2,
    (0, 2, 1): (0 + 2 / 6) / 2,
    (0, 1, 2): (0 + 1 / 9) / 2,
    (0, 0, 3): 0.0,  # ccc: y alone, wrong
}
TIMES = {(3, 0, 0): 1, (0, 3, 0): 1, (0, 0, 3): 1, (1, 1, 1): 6}  # of 27; the others 3


def test_macro_mean_of_the_hand_worked_example_and_its_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    original = np.quantile

    def quantile(means: np.ndarray, tails: list[float], axis: int) -> np.ndarray:
        seen["means"] = means[:, 0]
        return original(means, tails, axis=axis)

    monkeypatch.setattr(np, "quantile", quantile)
    (interval,) = macro_means(VALUES, VIDEOS, [X, ~X], 20000)
    assert interval.value == pytest.approx((1 / 3 + 1 / 5) / 2)
    expected: dict[float, float] = {}
    for drawn, mean in MEANS.items():
        expected[round(mean, 9)] = expected.get(round(mean, 9), 0) + TIMES.get(drawn, 3) / 27
    found = pd.Series(seen["means"]).round(9).value_counts(normalize=True).to_dict()
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, abs=0.015)  # four standard deviations
    # 2.5% and 97.5% of the ten values in order: 0 has 1/27 = 3.7%, the highest, 0.7, has 3/27
    assert (interval.low, interval.high) == pytest.approx((0.0, 0.7))


def test_micro_mean_weighs_questions_and_macro_groups() -> None:
    (micro,) = clustered_means(VALUES, VIDEOS, 100)
    (macro,) = macro_means(VALUES, VIDEOS, [X, ~X], 100)
    assert micro.value == 2 / 8 and macro.value == pytest.approx(4 / 15)


def test_one_group_is_the_micro_mean_with_the_same_resamples() -> None:
    values = np.random.default_rng(0).integers(0, 2, (60, 2)).astype(float)
    videos = [str(number // 4) for number in range(60)]
    one = macro_means(values, videos, [np.ones(60, dtype=bool)], 500, seed=3)
    for macro, micro in zip(one, clustered_means(values, videos, 500, seed=3), strict=True):
        assert (macro.value, macro.low, macro.high) == pytest.approx((micro.value, micro.low, micro.high))


def test_the_macro_mean_of_a_difference_is_the_difference_of_the_macro_means() -> None:
    values = np.random.default_rng(1).integers(0, 2, (40, 2)).astype(float)
    videos = [str(number // 2) for number in range(40)]
    groups = [np.arange(40) % 3 == number for number in range(3)]
    first, second, difference = macro_means(np.column_stack([values, values[:, 0] - values[:, 1]]), videos, groups, 300)
    assert difference.value == pytest.approx(first.value - second.value)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = macro_means(VALUES, VIDEOS, [X, ~X], 100)
    monkeypatch.setattr("viarl.evaluate.statistics.CHUNK", 3 * 7)
    assert macro_means(VALUES, VIDEOS, [X, ~X], 100) == whole


@pytest.mark.parametrize("groups", [[X, ~X, np.zeros(8, dtype=bool)], [X]])
def test_empty_groups_and_rows_without_one_are_refused(groups: Sequence[np.ndarray]) -> None:
    with pytest.raises(ValueError, match="a mean of groups needs"):
        macro_means(VALUES, VIDEOS, groups, 10)


def test_a_question_is_in_every_group_that_it_names() -> None:
    labelled = pd.Series([("type=b", "type=a"), ("type=a",), ("other=a",)])
    assert {name: inside.tolist() for name, inside in members(labelled, "type").items()} == {
        "a": [True, True, False],
        "b": [True, False, False],
        "unknown": [False, False, True],
    }


def rows(benchmark: str, questions: Sequence[dict[str, Any]], cycle: int = 0) -> list[dict[str, Any]]:
    """Rows of two selectors; a question names its video, task, groups and which of them are right."""
    table = []
    for number, question in enumerate(questions):
        for selector in ("learned", "uniform"):
            row = {"benchmark": benchmark, "cycle": cycle, "protocol": "viarl", "item": f"q{number}", "draw": 0}
            row |= {"video": question["video"], "task": question.get("task", ""), "groups": question.get("groups", [])}
            row |= {"selector": selector, "valid": True, "reason": "", "answer": "A"}
            row["failed"] = question.get("failed", "")
            row |= {"correct": selector in question["right"], "evidence_recall": question.get("recall", float("nan"))}
            table.append(row)
    return table


def summary(name: str, table: list[dict[str, Any]], cycle: int = 0) -> dict[str, Any]:
    content = summarise(pd.DataFrame(table), cycle, [name], 200, headlines=HEADLINES)
    jsonschema.Draft202012Validator(EVAL_SCHEMA).validate(content)
    return dict(content["benchmarks"][name])


BOTH, LEARNED, NONE = {"learned", "uniform"}, {"learned"}, set[str]()


def test_video_mme_is_reported_by_duration_domain_and_task_and_as_the_mean_of_durations() -> None:
    def question(video: str, duration: str, domain: str, task: str, right: set[str]) -> dict[str, Any]:
        groups = [f"duration={duration}", f"domain={domain}", f"task={task}"]
        return {"video": video, "task": task, "groups": groups, "right": right}

    asked = [
        question("a", "short", "Sports", "OCR", BOTH),
        question("a", "short", "Sports", "Counting", BOTH),
        question("b", "short", "News", "OCR", LEARNED),
        question("c", "medium", "News", "OCR", LEARNED),
        question("d", "long", "News", "Counting", NONE) | {"failed": "unreadable video"},
    ]
    part = summary("videomme", rows("videomme", asked))
    assert part["protocol"] == "viarl"
    overall, micro = part["headlines"]["overall"], part["headlines"]["micro"]
    assert overall["groups"] == {"long": 1, "medium": 1, "short": 3} and overall["n"] == micro["n"] == 5
    assert overall["selectors"]["learned"]["value"] == pytest.approx((1 + 1 + 0) / 3, abs=1e-6)  # failed is wrong
    assert overall["selectors"]["uniform"]["value"] == pytest.approx((2 / 3 + 0 + 0) / 3, abs=1e-6)
    assert overall["paired"]["learned-uniform"]["value"] == pytest.approx((1 / 3 + 1 + 0) / 3, abs=1e-6)
    learned = part["selectors"]["learned"]
    assert micro["selectors"]["learned"] == learned["accuracy"] and learned["accuracy"]["value"] == 0.8
    assert micro["paired"] == part["paired"]
    assert {
        kind: {name: group["n"] for name, group in groups.items()} for kind, groups in learned["by_group"].items()
    } == {"domain": {"News": 3, "Sports": 2}, "duration": {"long": 1, "medium": 1, "short": 3}}
    assert {task: group["n"] for task, group in learned["by_task"].items()} == {"Counting": 2, "OCR": 3}
    assert part["selectors"]["uniform"]["by_group"]["duration"]["short"]["accuracy"]["value"] == pytest.approx(
        2 / 3, abs=1e-6
    )


def test_mlvu_has_macro_and_micro_m_avg_and_needle_qa() -> None:
    asked = [
        {"video": "a", "task": "findNeedle", "right": BOTH},
        {"video": "b", "task": "findNeedle", "right": LEARNED},
        {"video": "c", "task": "count", "right": NONE},
        {"video": "d", "task": "count", "right": NONE},
        {"video": "e", "task": "count", "right": LEARNED},
        {"video": "f", "task": "count", "right": NONE},
    ]
    later = [question | {"right": LEARNED} for question in asked]
    table = rows("mlvu", asked) + rows("mlvu", later, cycle=1)
    part = summary("mlvu", table, 1)["headlines"]
    assert part["M-Avg"]["paired"]["cycle1-cycle0"]["value"] == pytest.approx(1 - (1 + 1 / 4) / 2)
    first = summary("mlvu", table)["headlines"]
    assert first["M-Avg"]["selectors"]["learned"]["value"] == (1 + 1 / 4) / 2
    assert first["micro"]["selectors"]["learned"]["value"] == 0.5
    assert first["M-Avg"]["groups"] == {"count": 4, "findNeedle": 2} and first["M-Avg"]["mean_over"] == "task"
    needle = first["Needle QA"]
    assert needle["n"] == 2 and needle["selectors"]["uniform"]["value"] == 0.5
    assert needle["paired"]["learned-uniform"] == {"value": 0.5, "low": 0.0, "high": 1.0}


def test_lvbench_counts_a_question_in_each_of_its_types_and_reports_evidence_recall() -> None:
    asked = [
        {"video": "a", "groups": ["type=reasoning", "type=entity recognition"], "right": BOTH, "recall": 1.0},
        {"video": "a", "groups": ["type=reasoning"], "right": NONE, "recall": 0.0},
        {"video": "b", "groups": ["type=summarization"], "right": LEARNED},  # time_reference unknown
    ]
    part = summary("lvbench", rows("lvbench", asked))
    types = part["selectors"]["learned"]["by_group"]["type"]
    counts = {name: group["n"] for name, group in types.items()}
    assert counts == {"entity recognition": 1, "reasoning": 2, "summarization": 1}
    assert types["reasoning"]["accuracy"]["value"] == 0.5
    assert types["reasoning"]["evidence_interval"] == {"n": 2, "low": 0.5, "high": 0.5}  # one video
    assert types["summarization"]["evidence_interval"] is None
    recall = part["headlines"]["evidence recall"]
    assert recall["n"] == 2 and recall["selectors"]["learned"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    assert part["headlines"]["micro"]["n"] == 3


def test_the_comparison_has_tables_of_headlines_and_groups_where_a_benchmark_has_headlines() -> None:
    groups = ["type=reasoning", "type=summarization"]
    asked = [{"video": "a", "groups": groups, "right": BOTH, "recall": 1.0}, {"video": "b", "right": LEARNED}]
    table = rows("lvbench", asked) + rows("needle", asked)
    content = summarise(pd.DataFrame(table), 0, ["lvbench", "needle"], 50, headlines=HEADLINES)
    made = {table.title: table for table in tables([content])}
    common = ["{} (n = 2)", "{}: selector and answerer, main run", "{}: failures of the learned selector, main run"]
    lvbench, needle = ([title.format(name) for title in common] for name in ("lvbench", "needle"))
    assert list(made) == [*lvbench, "lvbench, headlines", "lvbench, by group", *needle]
    headline, group = made["lvbench, headlines"], made["lvbench, by group"]
    assert headline.header[1] == "micro (mean over questions, n = 2)"
    assert headline.header[3] == "evidence recall (mean over questions, n = 1)"
    by_selector = {cells[0]: cells[1:] for cells in headline.cells}
    assert by_selector["uniform"][0].startswith("50.0 [") and by_selector["uniform"][1].startswith("+50.0 [")
    assert by_selector["uniform"][2] == "100.0 [100.0, 100.0]"
    assert [cells[:2] for cells in group.cells] == [["type: reasoning", "1"], ["type: summarization", "1"]]


def test_a_headline_without_questions_says_so() -> None:
    part = summary("mlvu", rows("mlvu", [{"video": "a", "task": "ego", "right": BOTH}]))["headlines"]
    assert part["Needle QA"] == {
        "column": "correct", "mean_over": "questions", "n": 0, "groups": {}, "selectors": {}, "paired": {},
    }  # fmt: skip


def test_other_benchmarks_have_no_headlines_and_several_protocols_are_refused() -> None:
    table = rows("needle", [{"video": "a", "task": "none", "right": BOTH}])
    part = summary("needle", table)
    assert part["headlines"] == {} and part["selectors"]["learned"]["by_group"] == {}
    mixed = table + [{**row, "cycle": 1, "protocol": "own"} for row in table]
    with pytest.raises(ValueError, match=r"several protocols \['own', 'viarl'\]"):
        summary("needle", mixed, 1)


def test_headlines_name_columns_that_are_averaged() -> None:
    assert all(isinstance(each, Headline) for own in HEADLINES.values() for each in own.values())
    assert {each.column for own in HEADLINES.values() for each in own.values()} <= {"correct", "evidence_recall"}
