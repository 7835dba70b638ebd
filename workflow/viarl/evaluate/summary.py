"""eval.json: what the rows of an evaluation say, in the documented schema (workflow/schemas/eval.schema.json)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from viarl.evaluate.benchmarks import Headline
from viarl.evaluate.headlines import UNKNOWN, groups_of, headline_means, labels
from viarl.evaluate.statistics import Interval, clustered_means, four_way, paired_difference

SCHEMA_VERSION = 1
REFERENCE_PAIRS = (("base", "uniform"), ("base_sampled", "uniform"), ("learned_sampled", "uniform"))


def summarise(
    rows: pd.DataFrame,
    cycle: int,
    benchmarks: Sequence[str],
    resamples: int,
    seed: int = 0,
    headlines: Mapping[str, Mapping[str, Headline]] | None = None,
) -> dict[str, Any]:
    """Return the content of a cycle's eval.json, of its rows and, for the differences, those of earlier cycles.

    `headlines`: by benchmark, the figures that it is known by, by title. Items without a known answer are counted in
    `n_without_answer` and are in no figure. ValueError where a benchmark is missing or has no known answer, or where
    selectors or cycles were evaluated on different items.
    """
    summary: dict[str, Any] = {}
    for name in benchmarks:
        own = rows[rows["benchmark"] == name]
        cycles = {number: known(part, name) for number, part in own.groupby("cycle", sort=True)}
        if cycle not in cycles:
            raise ValueError(f"benchmark {name!r} has no rows of cycle {cycle}; run evaluate on it")
        summary[name] = _benchmark(cycles, cycle, name, resamples, seed)
        summary[name]["headlines"] = {
            title: _headline(cycles, cycle, name, headline, resamples, seed)
            for title, headline in (headlines or {}).get(name, {}).items()
        }
        unknown = own[(own["cycle"] == cycle) & (own["answer"] == "")]
        summary[name]["n_without_answer"] = int(unknown["item"].nunique())
    bootstrap = {"resamples": resamples, "seed": seed, "level": 0.95, "clustered_by": "video"}
    return {"schema_version": SCHEMA_VERSION, "cycle": cycle, "bootstrap": bootstrap, "benchmarks": summary}


def known(rows: pd.DataFrame, benchmark: str) -> pd.DataFrame:
    known = rows[rows["answer"] != ""]
    if known.empty:
        raise ValueError(f"no question of benchmark {benchmark!r} has a known answer; add answers or take it out")
    return known


def by_item(rows: pd.DataFrame, benchmark: str, column: str = "correct") -> pd.DataFrame:
    """Return (items, selectors) values of a column, such as the share of right answers, the mean over the draws."""
    table = rows.assign(**{column: rows[column].astype(float)}).pivot_table(
        index="item", columns="selector", values=column, aggfunc="mean", sort=True
    )
    if table.isna().any().any():
        partial = sorted(table.columns[table.isna().any()])
        raise ValueError(f"benchmark {benchmark!r}: {partial} lack rows of some items; run evaluate on it again")
    return table


def _benchmark(cycles: dict[int, pd.DataFrame], cycle: int, name: str, resamples: int, seed: int) -> dict[str, Any]:
    rows = cycles[cycle]
    protocols = sorted({each for part in cycles.values() for each in part["protocol"]})
    if len(protocols) > 1:
        raise ValueError(f"benchmark {name!r}: its rows are of several protocols {protocols}; run evaluate on it again")
    tables = {number: by_item(part, name) for number, part in cycles.items() if number <= cycle}
    correct = tables[cycle]
    videos = _first(rows, correct.index)["video"].tolist()
    accuracies = clustered_means(correct.to_numpy(), videos, resamples, seed)
    selectors = {
        selector: _selector(rows[rows["selector"] == selector], accuracy, resamples, seed)
        for selector, accuracy in zip(correct.columns, accuracies, strict=True)
    }
    paired = {
        label: paired_difference(first.to_numpy(), second.to_numpy(), videos, resamples, seed).record()
        for label, (first, second) in _pairs(tables, cycle, name).items()
    }
    about = {"protocol": protocols[0], "n": len(correct), "videos": len(set(videos))}
    return {**about, "selectors": selectors, "paired": paired}


def _first(rows: pd.DataFrame, items: pd.Index) -> pd.DataFrame:
    """Return one row for each of these items, in their order."""
    return rows.drop_duplicates("item").set_index("item").loc[items]


def _pairs(tables: dict[int, pd.DataFrame], cycle: int, benchmark: str) -> dict[str, tuple[pd.Series, pd.Series]]:
    """Return the pairs of values by item that are compared; `tables` are those of `by_item`, by cycle."""
    now = tables[cycle]
    pairs: dict[str, tuple[pd.Series, pd.Series]] = {}
    if "learned" in now:
        pairs |= {f"learned-{other}": (now["learned"], now[other]) for other in now.columns.drop("learned")}
    pairs |= {f"{one}-{other}": (now[one], now[other]) for one, other in REFERENCE_PAIRS if {one, other} <= {*now}}
    for previous in sorted((number for number in tables if number < cycle), reverse=True):
        before = tables[previous]
        if not before.index.equals(now.index):
            both = f"cycles {previous} and {cycle}"
            raise ValueError(f"benchmark {benchmark!r}: {both} were evaluated on different items")
        if "learned" in now and "learned" in before:
            pairs[f"cycle{cycle}-cycle{previous}"] = (now["learned"], before["learned"])
    return pairs


def _headline(
    cycles: dict[int, pd.DataFrame], cycle: int, name: str, headline: Headline, resamples: int, seed: int
) -> dict[str, Any]:
    """Return a headline's figure for every selector, and its paired differences; without both where no item counts."""
    about = {"column": headline.column, "mean_over": headline.over or "questions"}
    labelled = labels(cycles[cycle].drop_duplicates("item").set_index("item"))
    wanted = labelled.index[[not headline.only or any(one in each for one in headline.only) for each in labelled]]
    tables = {}
    for number, rows in cycles.items():
        own = rows[rows["item"].isin(wanted) & rows[headline.column].notna()]
        if number <= cycle and len(own):
            tables[number] = by_item(own, name, headline.column)
    if cycle not in tables:
        return about | {"n": 0, "groups": {}, "selectors": {}, "paired": {}}
    now, pairs = tables[cycle], _pairs(tables, cycle, name)
    values = np.column_stack([now.to_numpy(), *[(first - second).to_numpy() for first, second in pairs.values()]])
    videos = _first(cycles[cycle], now.index)["video"].tolist()
    groups, means = headline_means(headline, values, videos, labelled.loc[now.index], resamples, seed)
    named = dict(zip([*now.columns, *pairs], [mean.record() for mean in means], strict=True))
    selectors, paired = ({name: named[name] for name in names} for names in (now.columns, pairs))
    return about | {"n": len(now), "groups": groups, "selectors": selectors, "paired": paired}


def _selector(rows: pd.DataFrame, accuracy: Interval, resamples: int, seed: int) -> dict[str, Any]:
    answered = rows[rows["failed"] == ""]
    failures = rows[rows["failed"] != ""].groupby("failed")["item"].nunique()
    by_draw = rows.groupby("draw")["correct"].mean()
    tasks = {task or UNKNOWN: part for task, part in rows.groupby("task", sort=True)}
    groups: dict[str, dict[str, Any]] = {}
    for kind, value, part in groups_of(rows):
        groups.setdefault(kind, {})[value] = _group(part, resamples, seed)
    own = _group(rows, resamples, seed, accuracy)
    return {
        **{name: own[name] for name in ("accuracy", "n", "evidence_recall", "evidence_interval")},
        "valid_rate": round(float(answered["valid"].mean()), 6) if len(answered) else None,
        "invalid": dict(sorted(Counter(answered.loc[~answered["valid"], "reason"]).items())),
        "n_failed": int(failures.sum()),
        "failures": {reason: int(count) for reason, count in failures.items()},
        "draws": [round(float(value), 6) for value in by_draw],
        "four_way": own["four_way"],
        "by_task": {task: _group(part, resamples, seed) for task, part in tasks.items()},
        "by_group": groups,
    }


def _group(rows: pd.DataFrame, resamples: int, seed: int, accuracy: Interval | None = None) -> dict[str, Any]:
    """Return the figures of some of a selector's questions; the bootstrap draws among their videos."""
    recall = rows["evidence_recall"].mean()  # leaves out NaN: evidence unknown
    return {
        "n": int(rows["item"].nunique()),
        "accuracy": (accuracy or _mean(rows, "correct", resamples, seed)).record(),
        "evidence_recall": None if np.isnan(recall) else round(float(recall), 6),
        "evidence_interval": _recall_interval(rows, resamples, seed),
        "four_way": four_way(rows["evidence_recall"].to_numpy(), rows["correct"].to_numpy()),
    }


def _mean(rows: pd.DataFrame, column: str, resamples: int, seed: int) -> Interval:
    items = rows.groupby("item").agg(value=(column, "mean"), video=("video", "first"))
    return clustered_means(items[["value"]].to_numpy(), items["video"].tolist(), resamples, seed)[0]


def _recall_interval(rows: pd.DataFrame, resamples: int, seed: int) -> dict[str, float] | None:
    """Return the number of items with known evidence and the ends of their mean recall's interval."""
    own = rows[rows["evidence_recall"].notna()]
    if own.empty:
        return None
    ends = _mean(own, "evidence_recall", resamples, seed).record()
    return {"n": int(own["item"].nunique()), "low": ends["low"], "high": ends["high"]}
