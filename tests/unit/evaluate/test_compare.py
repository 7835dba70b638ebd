"""Statistics over runs, against an example worked out by hand, a slow bootstrap and the summary of a single run."""

import random
from pathlib import Path

import numpy as np
import pytest

from small_tables import Outcome, write_table
from viarl.evaluate.compare import (
    BASE_ANSWERER,
    FOUR,
    Comparison,
    Run,
    compare,
    read_groups,
    stops,
    training_free,
    verdict,
)
from viarl.evaluate.rows import read_rows
from viarl.evaluate.statistics import Interval
from viarl.evaluate.summary import summarise

# Three questions on two videos, right (1) or wrong (0) by selector; "random" has two draws.
VIDEOS = {"a": "x", "b": "x", "c": "y"}
TASKS = {"a": "after", "b": "after", "c": "end"}
OTHERS = {"uniform": ["010"], "aks": ["100"], "random": ["110", "110"], "oracle": ["111"]}
RIGHT = {
    "untouched": OTHERS | {"clip_topk": ["000"], "learned": ["001"]},
    "main/0": OTHERS | {"clip_topk": ["001"], "learned": ["110"]},
    "main/1": OTHERS | {"clip_topk": ["011"], "learned": ["100"]},
    "short/1": OTHERS | {"clip_topk": ["000"], "learned": ["000"]},
    "short/2": OTHERS | {"clip_topk": ["000"], "learned": ["111"]},
}
RECALL = {"main/0": (1.0, 1.0, 0.5), "main/1": (1.0, 0.0, 1.0)}  # of the frames for a, b, c
RUNS = [Run("", 0, 1), Run("", 1, 1), Run("short", 1, 1, "Short is worse."), Run("short", 2, 1, "Short is worse.")]


def outcomes(name: str) -> list[Outcome]:
    """The rows of one table of RIGHT."""
    recall = RECALL.get(name, (0.0, 0.0, 0.0))
    return [
        (item, selector, draw, right[place] == "1", recall[place])
        for selector, draws in RIGHT[name].items()
        for draw, right in enumerate(draws)
        for place, item in enumerate(VIDEOS)
    ]


def write_all(folder: Path, benchmark: str = "needle") -> list[Path]:
    """Write the tables of RUNS, cycle 0 being shared by all of them."""
    for name in RIGHT:
        cycle = int(name != "untouched")
        write_table(folder / name, outcomes(name), VIDEOS, benchmark=benchmark, cycle=cycle, tasks=TASKS)
    names = [name for run in RUNS for name in ("untouched", f"{run.ablation or 'main'}/{run.seed}")]
    return [folder / name for name in names]


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    """The example, compared."""
    return compare(read_groups(RUNS, write_all(tmp_path), ["needle"]), ["needle"], 2000)


def find(comparison: Comparison, ablation: str, cycle: int, selector: str) -> dict:
    """The one row of these names."""
    names = (ablation, cycle, selector)
    (row,) = (row for row in comparison.rows if (row["ablation"], row["cycle"], row["selector"]) == names)
    return row


def near(*values: float):
    """These numbers, rounded to a millionth."""
    return pytest.approx(values[0] if len(values) == 1 else values, abs=1e-6)


def interval(row: dict, name: str) -> tuple[float, float, float]:
    """A value of a row and the ends of its interval."""
    return row[name], row[f"{name}_low"], row[f"{name}_high"]


def test_mean_spread_and_interval_over_seeds(comparison):
    # Seed 0 has 2 of 3 right, seed 1 has 1 of 3: mean 1/2, standard deviation (1/3) / sqrt(2). By question a 1, b 1/2,
    # c 0: two videos have the resamples xx 3/4, xy 1/2, yy 0 with probabilities 1/4, 1/2, 1/4.
    row = find(comparison, "main", 1, "learned")
    assert interval(row, "accuracy") == near(1 / 2, 0, 3 / 4)
    assert row["accuracy_sd"] == near(1 / 3 / 2**0.5)
    assert row["accuracy_by_seed"] == near(2 / 3, 1 / 3)
    assert (row["accuracy_min"], row["accuracy_max"]) == near(1 / 3, 2 / 3)
    assert (row["seeds"], row["n"], row["videos"], row["last"]) == ((0, 1), 3, 2, True)
    # evidence recall: seed 0 (1 + 1 + 1/2) / 3, seed 1 (1 + 0 + 1) / 3
    assert row["evidence_recall"] == near(4.5 / 6)
    assert (row["valid_rate"], row["n_failed"], row["frames"]) == (1, 0, 2)


def test_difference_to_main_is_taken_over_common_seeds(comparison):
    # Seed 1 alone is in both: a 0 - 1, b 0 - 0, c 0 - 0. Resamples: xx -1/2, xy -1/3, yy 0.
    row = find(comparison, "short", 1, "learned")
    assert interval(row, "minus_main") == near(-1 / 3, -1 / 2, 0)
    assert (row["main_seeds"], row["minus_main_sd"]) == ((1,), None)
    # Its own accuracy is over seeds 1 and 2: none and all of 3 right.
    assert row["accuracy"] == near(1 / 2)
    assert row["accuracy_sd"] == near(1 / 2**0.5)
    assert row["hypothesis"] == "Short is worse."
    assert find(comparison, "main", 1, "learned")["minus_main"] is None
    assert find(comparison, "short", 0, "learned")["minus_main"] is None  # last cycle against last cycle alone


def test_spread_of_the_difference_to_main_is_that_of_seeds_in_pairs(tmp_path):
    # With the main run's tables swapped: seed 0 has 1/3 - 2/3, seed 1 2/3 - 1/3; mean 0, deviation (2/3) / sqrt(2).
    main = write_all(tmp_path)[:4]
    runs = [*RUNS[:2], Run("swapped", 0, 1), Run("swapped", 1, 1)]
    compared = compare(read_groups(runs, [*main, *main[2:], *main[:2]], ["needle"]), ["needle"], 10)
    row = find(compared, "swapped", 1, "learned")
    assert (row["minus_main"], row["minus_main_sd"]) == near(0, 2 / 3 / 2**0.5)
    assert row["accuracy_sd"] == near(1 / 3 / 2**0.5)


def test_learned_selector_against_the_untrained_ones(comparison):
    # Learned a 1, b 1/2, c 0 minus uniform 0, 1, 0: x (1 - 1/2) / 2, y 0; together 1/6.
    row = find(comparison, "main", 1, "learned")
    assert interval(row, "minus_uniform") == near(1 / 6, 0, 1 / 4)
    # CLIP top-K has a 0, b 1/2, c 1, mean 1/2, more than AKS (1/3); random (2/3) and oracle (1) do not compete.
    assert row["best_free"] == "clip_topk"
    assert interval(row, "minus_best_free") == near(0, -1, 1 / 2)
    assert find(comparison, "main", 1, "clip_topk")["learned_minus"] == near(0)
    assert find(comparison, "main", 0, "learned")["best_free"] == "aks"  # there, CLIP top-K has none right
    assert find(comparison, "short", 1, "learned")["best_free"] == "aks"


def test_gain_of_a_cycle_and_the_stopping_rule(comparison):
    # Cycle 0 has c alone: a +1, b +1/2, c -1. Resamples: xx 3/4, xy 1/6, yy -1.
    row = find(comparison, "main", 1, "learned")
    assert interval(row, "gain") == near(1 / 6, -1, 3 / 4)
    assert find(comparison, "main", 0, "learned")["gain"] is None


@pytest.mark.parametrize(
    ("gain", "stop", "words"),
    [
        (Interval(0.1, 0.02, 0.2), False, "go on"),
        (Interval(0.1, -0.02, 0.2), True, "stop: the interval of the last gain includes zero"),
        (Interval(0.1, 0.0, 0.2), True, "stop: the interval of the last gain includes zero"),
        (Interval(-0.1, -0.2, -0.05), True, "stop: the interval of the last gain is below zero"),
    ],
)
def test_stopping_rule(gain, stop, words):
    assert stops(gain) is stop
    assert verdict(gain) == words


def test_four_way_shares_by_cycle_and_task(comparison):
    found = {
        (row["cycle"], row["task"]): (row["n"], *(row[name] for name in FOUR))
        for row in comparison.failures
        if row["ablation"] == "main"
    }
    # Cycle 1, seed 0: a and b right in both, c both wrong; seed 1: a right in both, b both wrong, c right frames alone.
    assert found[1, ""] == near(3, 3 / 6, 1 / 6, 0, 2 / 6)
    assert found[1, "after"] == (2, 3 / 4, 0, 0, 1 / 4)
    assert found[1, "end"] == (1, 0, 1 / 2, 0, 1 / 2)
    assert found[0, ""] == near(3, 0, 0, 1 / 3, 2 / 3)  # c was guessed
    row = find(comparison, "main", 1, "learned")
    assert tuple(row[name] for name in FOUR) == near(3 / 6, 1 / 6, 0, 2 / 6)


def test_selector_with_the_base_answerer_meets_uniform_of_cycle_0(tmp_path):
    paths = write_all(tmp_path)
    # a and b right with the base answerer; uniform frames had b right in cycle 0 (and, here, nothing in cycle 1).
    changed = [(*row[:3], row[3] and row[1] != "uniform", row[4]) for row in outcomes("main/0")]
    extra = [(item, BASE_ANSWERER, 0, item != "c", 0.0) for item in VIDEOS]
    write_table(paths[1], changed + extra, VIDEOS, cycle=1, tasks=TASKS)
    comparison = compare(read_groups(RUNS[:1], paths[:2], ["needle"]), ["needle"], 100)
    row = find(comparison, "main", 1, BASE_ANSWERER)
    assert row["minus_uniform"] == near(1 / 3)
    assert row["learned_minus"] == 0  # the tuned answerer has a and b right too
    assert row["minus_best_free"] is None
    assert training_free([BASE_ANSWERER, "learned", "random", "mine"]) == ["mine"]


def made_up(folder: Path, seeds: int) -> tuple[list[Run], list[Path], dict[str, str], np.ndarray]:
    """Two cycles of random outcomes on 40 questions of 12 videos; also the videos and the last cycle's outcomes."""
    generator = np.random.default_rng(5)
    videos = {f"q{number:02}": f"v{number * number % 12}" for number in range(40)}
    runs, paths, last = [], [], np.zeros((seeds, 40))
    for seed in range(seeds):
        runs.append(Run("", seed, 1))
        for cycle, share in enumerate((0.4, 0.7)):
            right = {name: generator.random(40) < share for name in ("learned", "uniform", "aks")}
            rows = [(q, name, 0, bool(right[name][i]), 1.0) for name in right for i, q in enumerate(videos)]
            paths.append(write_table(folder / f"{seed}-{cycle}.parquet", rows, videos, cycle=cycle))
        last[seed] = right["learned"]
    return runs, paths, videos, last


def test_interval_against_a_slow_bootstrap(tmp_path):
    runs, paths, videos, right = made_up(tmp_path, seeds=3)
    row = find(compare(read_groups(runs, paths, ["needle"]), ["needle"], 4000), "main", 1, "learned")
    by_video: dict[str, list[float]] = {}
    for place, video in enumerate(videos.values()):
        by_video.setdefault(video, []).append(float(np.mean([right[seed, place] for seed in range(3)])))
    draw = random.Random(1)
    means = []
    for _ in range(4000):
        drawn = [value for video in draw.choices(sorted(by_video), k=len(by_video)) for value in by_video[video]]
        means.append(sum(drawn) / len(drawn))
    means.sort()
    assert row["accuracy"] == near(right.mean())
    # the ends of a 95% interval from 4,000 resamples are known to about a twentieth of the interval's width
    assert row["accuracy_low"] == pytest.approx(means[100], abs=0.01)
    assert row["accuracy_high"] == pytest.approx(means[3900], abs=0.01)
    assert row["accuracy_high"] - row["accuracy_low"] > 0.05


def test_one_seed_has_the_numbers_of_its_summary(tmp_path):
    runs, paths, _, _ = made_up(tmp_path, seeds=1)
    comparison = compare(read_groups(runs, paths, ["needle"]), ["needle"], 500)
    summary = summarise(read_rows(paths), 1, ["needle"], 500)["benchmarks"]["needle"]
    for selector, entry in summary["selectors"].items():
        row = find(comparison, "main", 1, selector)
        assert interval(row, "accuracy") == pytest.approx(tuple(entry["accuracy"].values()))
        assert {name: row[name] for name in FOUR} == pytest.approx(entry["four_way"])
        assert row["accuracy_sd"] is None
    learned = find(comparison, "main", 1, "learned")
    assert interval(learned, "minus_uniform") == near(*summary["paired"]["learned-uniform"].values())
    assert interval(learned, "gain") == pytest.approx(tuple(summary["paired"]["cycle1-cycle0"].values()))


def test_questions_without_an_answer_are_counted(tmp_path):
    paths = write_all(tmp_path)[:2]
    change = {("c", selector): {"answer": "", "correct": False} for selector in RIGHT["untouched"]}
    for cycle, path in enumerate(paths):
        rows = outcomes("main/0" if cycle else "untouched")
        write_table(path, rows, VIDEOS, cycle=cycle, tasks=TASKS, change=change)
    row = find(compare(read_groups(RUNS[:1], paths, ["needle"]), ["needle"], 10), "main", 1, "learned")
    assert (row["n"], row["n_without_answer"], row["accuracy"]) == (2, 1, 1)


def rewrite(path: Path, rows: list[Outcome], **how) -> None:
    """Write the table of the run short, seed 2, again."""
    write_table(path, rows, how.pop("videos", VIDEOS), **{"cycle": 1, "tasks": TASKS, **how})


SHORT = outcomes("short/2")
CASES = {
    "missing": ({"rows": [row for row in SHORT if row[0] != "b"]}, r"questions of 'needle' are not .* 1 missing"),
    "added": ({"rows": [*SHORT, ("d", "learned", 0, True, 1.0)], "videos": VIDEOS | {"d": "y"}}, "lack rows of some"),
    "partial": ({"rows": [row for row in SHORT if row[:2] != ("b", "learned")]}, r"\['learned'\] lack rows"),
    "twice": ({"rows": [*SHORT, SHORT[-1]]}, r"1 rows come twice, the first 'c' by 'learned'; delete it"),
    "other truth": (
        {"rows": SHORT, "change": {("a", name): {"answer": "B"} for name in RIGHT["main/0"]}},
        r"1 of another video, task, text or truth \(first 'a'\); evaluate it again, or take it out",
    ),
    "other video": ({"rows": SHORT, "videos": VIDEOS | {"a": "y"}}, r"1 of another video"),
    "cycle": ({"rows": SHORT, "cycle": 2}, r"holds \[\('needle', 2\)\] in place of \('needle', 1\); delete it"),
    "benchmark": ({"rows": SHORT, "benchmark": "local"}, r"holds \[\('local', 1\)\]"),
    "no learned": ({"rows": [row for row in SHORT if row[1] != "learned"]}, "add it to evaluation.selectors"),
    "selectors": ({"rows": [row for row in SHORT if row[1] != "aks"]}, "with different selectors on 'needle'"),
}


@pytest.mark.parametrize("case", CASES)
def test_tables_that_cannot_be_compared_are_refused_by_name(tmp_path, case):
    paths = write_all(tmp_path)
    how, message = CASES[case]
    rewrite(paths[-1], **how)
    with pytest.raises(ValueError, match=message) as error:
        read_groups(RUNS, paths, ["needle"])
    assert "short" in str(error.value)
    if case != "selectors":
        assert str(error.value).startswith(f"{paths[-1]} (ablation 'short', seed 2, cycle 1): ")


def test_the_main_run_says_which_questions_are_asked_wherever_it_stands(tmp_path):
    main = write_all(tmp_path)[:2]
    few = [row for row in outcomes("untouched") if row[0] != "b"]
    short = [write_table(tmp_path / f"few{cycle}", few, VIDEOS, cycle=cycle, tasks=TASKS) for cycle in (0, 1)]
    with pytest.raises(ValueError, match=r"few0 \(ablation 'short', seed 2, cycle 0\): .*: 1 missing \(first 'b'\)"):
        read_groups([RUNS[3], RUNS[0]], [*short, *main], ["needle"])


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([Run("short", 1, 1)], "the main run is not among the runs"),
        ([Run("", 0, 1), Run("", 0, 1)], "main run, seed 0: given twice"),
        ([Run("", 0, 0), Run("", 1, 1)], "main run, seed 1: cycles or hypothesis differ"),
        ([Run("", 0, 1), Run("main", 0, 1)], "give the ablation another name"),
    ],
)
def test_lists_of_runs_that_make_no_sense_are_refused(tmp_path, runs, message):
    paths = [tmp_path / "x"] * sum(run.cycle + 1 for run in runs)
    with pytest.raises(ValueError, match=message):
        read_groups(runs, paths, ["needle"])


def test_a_table_in_the_place_of_another_is_refused(tmp_path):
    paths = write_all(tmp_path)
    with pytest.raises(ValueError, match=r"holds \[\('needle', 0\)\] in place of \('needle', 1\)"):
        read_groups(RUNS, [*paths[:3], paths[0], *paths[4:]], ["needle"])


def test_the_number_of_tables_is_checked(tmp_path):
    with pytest.raises(ValueError, match="7 tables of rows for 8"):
        read_groups(RUNS, write_all(tmp_path)[:-1], ["needle"])
