"""eval.json: what the rows of an evaluation say, in the documented schema (workflow/schemas/eval.schema.json)."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from viarl.evaluate.statistics import Interval, clustered_means, four_way, paired_difference

SCHEMA_VERSION = 1
REFERENCE_PAIRS = (("base", "uniform"), ("base_sampled", "uniform"), ("learned_sampled", "uniform"))


def summarise(
    rows: pd.DataFrame, cycle: int, benchmarks: Sequence[str], resamples: int, seed: int = 0
) -> dict[str, Any]:
    """Return the content of a cycle's eval.json.

    Args:
        rows: of this cycle and, for the differences between cycles, of earlier ones (viarl.evaluate.rows).
        cycle: the cycle reported.
        benchmarks: which must be there.
        resamples: bootstrap draws.

    Items without a known answer are counted in `n_without_answer` and are in no figure. Errors: ValueError where a
    benchmark is missing, has no known answer, or where selectors or cycles were evaluated on different items.
    """
    summary: dict[str, Any] = {}
    for name in benchmarks:
        cycles = {
            number: known(part, name) for number, part in rows[rows["benchmark"] == name].groupby("cycle", sort=True)
        }
        if cycle not in cycles:
            raise ValueError(f"benchmark {name!r} has no rows of cycle {cycle}; run evaluate on it")
        summary[name] = _benchmark(cycles, cycle, name, resamples, seed)
        everything = rows[(rows["benchmark"] == name) & (rows["cycle"] == cycle)]
        summary[name]["n_without_answer"] = int(everything.loc[everything["answer"] == "", "item"].nunique())
    return {
        "schema_version": SCHEMA_VERSION,
        "cycle": cycle,
        "bootstrap": {"resamples": resamples, "seed": seed, "level": 0.95, "clustered_by": "video"},
        "benchmarks": summary,
    }


def known(rows: pd.DataFrame, benchmark: str) -> pd.DataFrame:
    known = rows[rows["answer"] != ""]
    if known.empty:
        raise ValueError(f"no question of benchmark {benchmark!r} has a known answer; add answers or take it out")
    return known


def by_item(rows: pd.DataFrame, benchmark: str) -> pd.DataFrame:
    """Return (items, selectors) shares of right answers, the mean over the draws of random selectors."""
    table = rows.assign(correct=rows["correct"].astype(float)).pivot_table(
        index="item", columns="selector", values="correct", aggfunc="mean", sort=True
    )
    if table.isna().any().any():
        partial = sorted(table.columns[table.isna().any()])
        raise ValueError(f"benchmark {benchmark!r}: {partial} lack rows of some items; run evaluate on it again")
    return table


def _benchmark(cycles: dict[int, pd.DataFrame], cycle: int, name: str, resamples: int, seed: int) -> dict[str, Any]:
    rows = cycles[cycle]
    correct = by_item(rows, name)
    videos = rows.drop_duplicates("item").set_index("item")["video"].loc[correct.index].tolist()
    accuracies = clustered_means(correct.to_numpy(), videos, resamples, seed)
    selectors = {
        selector: _selector(rows[rows["selector"] == selector], accuracy, resamples, seed)
        for selector, accuracy in zip(correct.columns, accuracies, strict=True)
    }
    paired: dict[str, Any] = {}

    def compare(label: str, first: pd.Series, second: pd.Series) -> None:
        paired[label] = paired_difference(first.to_numpy(), second.to_numpy(), videos, resamples, seed).record()

    if "learned" in correct:
        for other in correct.columns.drop("learned"):
            compare(f"learned-{other}", correct["learned"], correct[other])
    for first, second in REFERENCE_PAIRS:
        if first in correct and second in correct:
            compare(f"{first}-{second}", correct[first], correct[second])
    for previous in sorted((number for number in cycles if number < cycle), reverse=True):
        before = by_item(cycles[previous], name)
        if not before.index.equals(correct.index):
            raise ValueError(f"benchmark {name!r}: cycles {previous} and {cycle} were evaluated on different items")
        if "learned" in correct and "learned" in before:
            compare(f"cycle{cycle}-cycle{previous}", correct["learned"], before["learned"])
    return {"n": len(correct), "videos": len(set(videos)), "selectors": selectors, "paired": paired}


def _selector(rows: pd.DataFrame, accuracy: Interval, resamples: int, seed: int) -> dict[str, Any]:
    answered = rows[rows["failed"] == ""]
    failures = rows[rows["failed"] != ""].groupby("failed")["item"].nunique()
    by_draw = rows.groupby("draw")["correct"].mean()
    tasks = {task or "unknown": part for task, part in rows.groupby("task", sort=True)}
    return {
        "accuracy": accuracy.record(),
        "n": int(rows["item"].nunique()),
        "evidence_recall": _recall(rows),
        "valid_rate": round(float(answered["valid"].mean()), 6) if len(answered) else None,
        "invalid": dict(sorted(Counter(answered.loc[~answered["valid"], "reason"]).items())),
        "n_failed": int(failures.sum()),
        "failures": {reason: int(count) for reason, count in failures.items()},
        "draws": [round(float(value), 6) for value in by_draw],
        "four_way": _four_way(rows),
        "by_task": {
            task: {
                "n": int(part["item"].nunique()),
                "accuracy": _accuracy(part, resamples, seed).record(),
                "evidence_recall": _recall(part),
                "four_way": _four_way(part),
            }
            for task, part in tasks.items()
        },
    }


def _accuracy(rows: pd.DataFrame, resamples: int, seed: int) -> Interval:
    items = rows.groupby("item").agg(correct=("correct", "mean"), video=("video", "first"))
    return clustered_means(items[["correct"]].to_numpy(), items["video"].tolist(), resamples, seed)[0]


def _recall(rows: pd.DataFrame) -> float | None:
    mean = rows["evidence_recall"].mean()  # leaves out NaN: evidence unknown
    return None if np.isnan(mean) else round(float(mean), 6)


def _four_way(rows: pd.DataFrame) -> dict[str, float] | None:
    return four_way(rows["evidence_recall"].to_numpy(), rows["correct"].to_numpy())
