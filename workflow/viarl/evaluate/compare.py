"""Several runs side by side: ablations over their training seeds, selectors, failures, and when cycles stop paying.

Runs that differ in the training seed alone form a group. A question's value is its mean over draws and then over seeds,
and the bootstrap draws whole videos: an interval says how much other videos would change a number, the standard
deviation over seeds how much another training would.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from viarl.evaluate.rows import AGAIN, read_rows
from viarl.evaluate.statistics import FOUR, Interval, clustered_means, four_way
from viarl.evaluate.summary import by_item, known

MAIN = "main"  # the main run's name in print
LEARNED, UNIFORM = "learned", "uniform"
BASE_ANSWERER = "learned_base_answerer"  # the cycle's selector with the untouched answerer, where it is evaluated
NO_RIVALS = frozenset({UNIFORM, "random", "oracle", "blind", "base", "base_sampled", LEARNED, "learned_sampled"})
IDENTITY = ["video", "task", "question", "answer"]  # what makes questions of the same name the same

DIFFERENCES = (  # paired, with _low and _high
    "gain",  # over the same selector a cycle before
    "minus_cycle0",  # over the same selector in cycle 0
    "minus_main",  # over the same selector of the main run, last cycle against last cycle, on common seeds alone
    "minus_uniform",  # over uniform frames (of cycle 0, for learned_base_answerer)
    "minus_best_free",
    "learned_minus",  # the learned selector over this one
)
# Of comparison.csv: a row a benchmark, ablation ("main"), cycle and selector; shares in 0..1.
COLUMNS = (
    "benchmark",
    "ablation",
    "hypothesis",
    "cycle",
    "last",  # whether it is the run's last cycle
    "selector",
    "seeds",  # of training, averaged over
    "n",  # questions with a known answer
    "videos",
    "n_without_answer",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "accuracy_sd",  # over seeds, with n - 1; 0 in cycle 0, which has no training
    "accuracy_min",
    "accuracy_max",
    "accuracy_by_seed",  # in the order of `seeds`
    "evidence_recall",
    "valid_rate",
    "n_failed",  # questions that could not be answered and count as wrong, mean over seeds
    "frames",  # shown to the answerer, mean
    "best_free",  # the most accurate training-free selector of the cycle
    "main_seeds",  # over which `minus_main` was taken
    "minus_main_sd",  # of `minus_main` over these seeds, with n - 1
    *(name + end for name in DIFFERENCES for end in ("", "_low", "_high")),
    *FOUR,
)
# Of failures.csv: the learned selector's four-way shares; task "" is all, `n` counts questions with known evidence.
FAILURE_COLUMNS = ("benchmark", "ablation", "cycle", "task", "n", *FOUR)


@dataclass(frozen=True)
class Run:
    """A run of the comparison: `ablation` is "" for the main run, `cycle` its last one."""

    ablation: str
    seed: int
    cycle: int
    hypothesis: str = ""

    def __str__(self) -> str:
        return f"{f'ablation {self.ablation!r}' if self.ablation else 'main run'}, seed {self.seed}"


@dataclass(frozen=True)
class Evaluation:
    """A table of rows, reduced to what is compared; questions without a known answer are counted alone."""

    questions: pd.DataFrame  # IDENTITY of each question, sorted by its id
    correct: pd.DataFrame  # (questions, selectors) share of right answers over draws
    selectors: Mapping[str, Mapping[str, float]]  # evidence_recall, valid_rate, n_failed, frames, FOUR; NaN unknown
    failures: Mapping[str, tuple[int, Mapping[str, float]]]  # the learned selector's `_shares` by task, "" for all
    without_answer: int


@dataclass(frozen=True)
class Group:
    """The runs of one ablation: `evaluations` has, by benchmark and cycle, one of each seed."""

    ablation: str
    hypothesis: str
    cycle: int
    seeds: tuple[int, ...]
    evaluations: dict[tuple[str, int], list[Evaluation]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name in print."""
        return self.ablation or MAIN


@dataclass(frozen=True)
class Comparison:
    """All numbers, to a millionth: `rows` with COLUMNS, `failures` with FAILURE_COLUMNS; None is unknown."""

    benchmarks: tuple[str, ...]
    rows: list[dict[str, Any]]
    failures: list[dict[str, Any]]


def stops(gain: Interval) -> bool:
    """Return whether cycles stop paying: the interval of the last cycle's gain includes zero, or lies below it."""
    return gain.low <= 0


def verdict(gain: Interval) -> str:
    """Return the stopping rule's verdict in words."""
    if not stops(gain):
        return "go on"
    return "stop: the interval of the last gain " + ("includes zero" if gain.high >= 0 else "is below zero")


def training_free(selectors: Iterable[str]) -> list[str]:
    """Return the selectors that look at the frames, need no training and do not know the evidence."""
    return [name for name in selectors if name not in NO_RIVALS and name != BASE_ANSWERER]


def read_groups(runs: Sequence[Run], paths: Sequence[Path], benchmarks: Sequence[str]) -> list[Group]:
    """Read the tables of all runs, the main one first; it must be among them.

    `paths`: run by run, in it benchmark by benchmark, in it cycle 0 to the run's last; a file may come several times.
    ValueError names run, file and remedy where a table is not what its place says, has rows twice or not at all, or
    where its questions are not those of the main run.
    """
    wanted = [(run, name, cycle) for run in runs for name in benchmarks for cycle in range(run.cycle + 1)]
    if len(wanted) != len(paths):
        raise ValueError(f"{len(paths)} tables of rows for {len(wanted)} of runs, benchmarks and cycles; give each one")
    groups = _groups(runs)
    read: dict[tuple[Path, str, int], Evaluation] = {}
    found: dict[tuple[Run, str, int], Evaluation] = {}
    first: dict[str, pd.DataFrame] = {}
    # The main run first: the others are held against its questions.
    ordered = sorted(zip(wanted, paths, strict=True), key=lambda entry: bool(entry[0][0].ablation))
    for (run, name, cycle), path in ordered:
        where = f"{path} ({run}, cycle {cycle})"
        if (key := (path, name, cycle)) not in read:
            made = _read(path, name, cycle, where)
            questions = first.setdefault(name, made.questions)
            _same_questions(made.questions, questions, name, where)
            # Hundreds of tables hold the same texts: keep one copy.
            read[key] = replace(made, questions=questions, correct=made.correct.set_axis(questions.index))
        found[run, name, cycle] = read[key]
    for group, members in groups:
        for name, cycle in product(benchmarks, range(group.cycle + 1)):
            group.evaluations[name, cycle] = [found[run, name, cycle] for run in members]
            if len({tuple(evaluation.correct) for evaluation in group.evaluations[name, cycle]}) > 1:
                what = f"its seeds were evaluated with different selectors on {name!r} in cycle {cycle}"
                raise ValueError(f"{group.name}: {what}; delete their tables so that evaluate makes them again")
    return [group for group, _ in groups]


def _groups(runs: Sequence[Run]) -> list[tuple[Group, list[Run]]]:
    members: dict[str, list[Run]] = {"": []}
    for run in runs:
        if run.ablation == MAIN:
            raise ValueError(f"{run}: the tables call the main run {MAIN!r}; give the ablation another name")
        others = members.setdefault(run.ablation, [])
        if any(other.seed == run.seed for other in others):
            raise ValueError(f"{run}: given twice; list each seed once")
        if others and (others[0].cycle, others[0].hypothesis) != (run.cycle, run.hypothesis):
            first = others[0]
            raise ValueError(f"{run}: cycles or hypothesis differ from {first}; seeds of a run differ in nothing else")
        others.append(run)
    if not members[""]:
        raise ValueError("the main run is not among the runs; all others are compared with it")
    seeds = {name: tuple(run.seed for run in own) for name, own in members.items()}
    return [(Group(name, own[0].hypothesis, own[0].cycle, seeds[name]), own) for name, own in members.items()]


def _read(path: Path, benchmark: str, cycle: int, where: str) -> Evaluation:
    """Read and reduce a table; `where` names it in errors."""
    rows = read_rows([path])
    labels = set(zip(rows["benchmark"].tolist(), rows["cycle"].tolist(), strict=True))
    if labels != {(benchmark, cycle)}:
        raise ValueError(f"{where}: holds {sorted(labels)} in place of {(benchmark, cycle)}; {AGAIN}")
    twice = rows.duplicated(["item", "selector", "draw"])
    if twice.any():
        item, selector = rows.loc[twice.idxmax(), ["item", "selector"]]
        raise ValueError(f"{where}: {int(twice.sum())} rows come twice, the first {item!r} by {selector!r}; {AGAIN}")
    try:
        used = known(rows, benchmark)
        correct = by_item(used, benchmark)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if LEARNED not in correct:
        raise ValueError(f"{where}: no rows of the selector {LEARNED!r}; add it to evaluation.selectors")
    learned = used[used["selector"] == LEARNED]
    by_task = {task or "unknown": _shares(part) for task, part in learned.groupby("task")}
    return Evaluation(
        used.drop_duplicates("item").set_index("item").sort_index()[IDENTITY],
        correct,
        {selector: _numbers(part) for selector, part in used.groupby("selector")},
        {"": _shares(learned), **by_task},
        rows["item"].nunique() - len(correct),
    )


def _numbers(rows: pd.DataFrame) -> dict[str, float]:
    """Return the numbers of one selector."""
    answered = rows[rows["failed"] == ""]
    return {
        "evidence_recall": float(rows["evidence_recall"].mean()),  # leaves out NaN: evidence unknown
        "valid_rate": float(answered["valid"].mean()),
        "n_failed": rows.loc[rows["failed"] != "", "item"].nunique(),
        "frames": float(answered["indices"].map(len).mean()),
        **_shares(rows)[1],
    }


def _shares(rows: pd.DataFrame) -> tuple[int, dict[str, float]]:
    recall = rows["evidence_recall"].to_numpy()
    shares = four_way(recall, rows["correct"].to_numpy())
    return int((~np.isnan(recall)).sum()), shares or dict.fromkeys(FOUR, float("nan"))


def _same_questions(found: pd.DataFrame, main: pd.DataFrame, benchmark: str, where: str) -> None:
    """Raise ValueError unless a table has exactly the questions of the main run."""
    if found.equals(main):
        return
    missing, added = main.index.difference(found.index), found.index.difference(main.index)
    both = main.index.intersection(found.index)
    changed = both[(main.loc[both] != found.loc[both]).any(axis=1)]
    numbers = {"missing": missing, "added": added, "of another video, task, text or truth": changed}
    listed = ", ".join(f"{len(items)} {what} (first {items[0]!r})" for what, items in numbers.items() if len(items))
    remedy = "evaluate it again, or take it out of compare.ablations: only runs on the same questions can be compared"
    raise ValueError(f"{where}: its questions of {benchmark!r} are not those of the main run: {listed}; {remedy}")


def compare(groups: Sequence[Group], benchmarks: Sequence[str], resamples: int, seed: int = 0) -> Comparison:
    """Return all numbers of groups (the main run first); those of a benchmark share the bootstrap's `resamples`."""
    every = list(product(benchmarks, groups))
    rows = [row for name, group in every for row in _rows(group, groups[0], name, resamples, seed)]
    failures = [row for name, group in every for row in _failures(group, name)]
    return Comparison(tuple(benchmarks), rows, failures)


def _rows(group: Group, main: Group, benchmark: str, resamples: int, seed: int) -> list[dict[str, Any]]:
    """Return the rows of one benchmark and ablation."""
    means = {cycle: _over_seeds(group, benchmark, cycle, group.seeds) for cycle in range(group.cycle + 1)}
    rivals = {cycle: _best(table) for cycle, table in means.items()}
    common = tuple(number for number in group.seeds if number in main.seeds) if group is not main else ()
    latest, other = (partial(_over_seeds, of, benchmark, of.cycle) for of in (group, main))
    to_main = latest(common) - other(common) if common else None  # NaN where one lacks the selector
    by_seed = [latest([number]).mean() - other([number]).mean() for number in common]
    columns: dict[tuple[int, str, str], pd.Series] = {}
    for cycle, table in means.items():
        for selector in table:
            pairs = _pairs(means, rivals, cycle, selector)
            if to_main is not None and cycle == group.cycle and selector in to_main:
                pairs["minus_main"] = to_main[selector]
            for what, values in {"accuracy": table[selector], **pairs}.items():
                if values.notna().all():
                    columns[cycle, selector, what] = values
    videos = group.evaluations[benchmark, 0][0].questions["video"].tolist()
    values = np.column_stack([column.to_numpy() for column in columns.values()])
    intervals = dict(zip(columns, clustered_means(values, videos, resamples, seed), strict=True))
    rows = []
    for cycle, table in means.items():
        for selector in table:
            evaluations = group.evaluations[benchmark, cycle]
            row: dict[str, Any] = dict.fromkeys(COLUMNS)
            row |= {"benchmark": benchmark, "ablation": group.name, "hypothesis": group.hypothesis, "cycle": cycle}
            row |= {"last": cycle == group.cycle, "selector": selector, "seeds": group.seeds, "n": len(table)}
            row |= {"videos": len(set(videos)), "n_without_answer": evaluations[0].without_answer}
            by_seeds = [float(evaluation.correct[selector].mean()) for evaluation in evaluations]
            rounded = tuple(round(value, 6) for value in by_seeds)
            row |= {"accuracy_sd": _deviation(by_seeds), "accuracy_min": min(rounded), "accuracy_max": max(rounded)}
            for name in ("evidence_recall", "valid_rate", "n_failed", "frames", *FOUR):
                row[name] = _mean([evaluation.selectors[selector][name] for evaluation in evaluations])
            for what in ("accuracy", *DIFFERENCES):
                if interval := intervals.get((cycle, selector, what)):
                    value, low, high = interval.record().values()
                    row |= {what: value, f"{what}_low": low, f"{what}_high": high}
            row |= {"best_free": rivals[cycle], "accuracy_by_seed": rounded}
            if row["minus_main"] is not None:
                deviation = _deviation([differences[selector] for differences in by_seed])
                row |= {"main_seeds": common, "minus_main_sd": deviation}
            rows.append(row)
    return rows


def _pairs(
    means: Mapping[int, pd.DataFrame], rivals: Mapping[int, str | None], cycle: int, selector: str
) -> dict[str, pd.Series]:
    """Return the differences between a selector and others of the same runs, a value a question."""
    table, rival = means[cycle], rivals[cycle]
    own = table[selector]
    # With the base answerer, the selector meets uniform frames where these are answered by the same one: in cycle 0.
    uniform = means[0] if selector == BASE_ANSWERER else table
    pairs = {}
    if cycle and selector in means[cycle - 1]:
        pairs["gain"] = own - means[cycle - 1][selector]
    if cycle and selector in means[0]:
        pairs["minus_cycle0"] = own - means[0][selector]
    if selector != UNIFORM and UNIFORM in uniform:
        pairs["minus_uniform"] = own - uniform[UNIFORM]
    if rival and selector not in (rival, BASE_ANSWERER):
        pairs["minus_best_free"] = own - table[rival]
    if selector != LEARNED:
        pairs["learned_minus"] = table[LEARNED] - own
    return pairs


def _over_seeds(group: Group, benchmark: str, cycle: int, seeds: Sequence[int]) -> pd.DataFrame:
    """Return (questions, selectors) shares of right answers, the mean over these seeds."""
    evaluations = group.evaluations[benchmark, cycle]
    tables = [evaluations[group.seeds.index(seed)].correct for seed in seeds]
    return pd.concat(tables).groupby(level=0).mean()


def _best(table: pd.DataFrame) -> str | None:
    return max(training_free(table), key=lambda name: table[name].mean(), default=None)


def _deviation(values: Sequence[float]) -> float | None:
    """Return the standard deviation over seeds; one seed has none."""
    return round(float(np.std(values, ddof=1)), 6) if len(values) > 1 else None


def _mean(values: Sequence[float]) -> float | None:
    return None if np.isnan(mean := float(np.mean(values))) else round(mean, 6)


def _failures(group: Group, benchmark: str) -> list[dict[str, Any]]:
    """Return the learned selector's four-way shares by cycle and task, means over seeds."""
    rows = []
    for cycle in range(group.cycle + 1):
        seeds = [evaluation.failures for evaluation in group.evaluations[benchmark, cycle]]
        for task, (n, _) in seeds[0].items():
            row = {"benchmark": benchmark, "ablation": group.name, "cycle": cycle, "task": task, "n": n}
            rows.append(row | {name: _mean([shares[task][1][name] for shares in seeds]) for name in FOUR})
    return rows
