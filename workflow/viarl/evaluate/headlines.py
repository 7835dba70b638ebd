"""The figures that benchmarks are known by (viarl.evaluate.benchmarks), with clustered intervals."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from viarl.evaluate.benchmarks import Headline
from viarl.evaluate.statistics import Interval, clustered_means, resampled

UNKNOWN = "unknown"  # the group of questions that name none of a kind
TASK = "task"


def labels(rows: pd.DataFrame) -> pd.Series:
    """Return what each row's question is grouped by: its labels "kind=value", its task among them."""
    both = zip(rows["task"], rows["groups"], strict=True)
    return pd.Series([(f"{TASK}={task or UNKNOWN}", *own) for task, own in both], index=rows.index, dtype=object)


def groups_of(rows: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield kind, value and rows of every group, in order of their names; a row may be in several, its task is none."""
    named = rows["groups"].explode().dropna()
    named = named[named != f"{TASK}=" + rows["task"].loc[named.index]]
    for label in sorted(named.unique()):
        kind, _, value = label.partition("=")
        yield kind, value, rows.loc[named.index[named == label].unique()]


def members(labelled: pd.Series, kind: str) -> dict[str, np.ndarray]:
    """Return for every group of a kind which questions are in it, (n,) bool; `UNKNOWN` holds those in none."""
    start = f"{kind}="
    own = [{one.removeprefix(start) for one in every if one.startswith(start)} or {UNKNOWN} for every in labelled]
    return {name: np.array([name in each for each in own]) for name in sorted(set().union(*own))}


def macro_means(
    values: np.ndarray, clusters: Sequence[str], groups: Sequence[np.ndarray], resamples: int, seed: int = 0
) -> list[Interval]:
    """Return for each column the mean of its means in the groups, with its interval under resampling of whole clusters.

    `groups`: for each which rows are in it, (n,) bool, none empty; every row is in one or more. A group that a resample
    does not hold is left out of its mean of means. The rest, and the errors, are as in `clustered_means`.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or not len(values) or len(values) != len(clusters) or not np.isfinite(values).all():
        raise ValueError(f"a mean needs finite rows, one cluster each: values {values.shape}, {len(clusters)} clusters")
    inside = np.stack([np.asarray(group, dtype=np.float64) for group in groups], axis=1)  # (n, g)
    if not inside.any(0).all() or not inside.any(1).all():
        raise ValueError("a mean of groups needs rows in every group, and a group for every row")
    names, place = np.unique(np.asarray(clusters), return_inverse=True)
    columns, many = values.shape[1], inside.shape[1]
    sums, counts = np.zeros((len(names), many * columns)), np.zeros((len(names), many))
    np.add.at(sums, place, (inside[:, :, None] * values[:, None, :]).reshape(len(values), -1))
    np.add.at(counts, place, inside)

    def means(draws: np.ndarray) -> np.ndarray:
        return _mean_of_means((draws @ sums).reshape(-1, many, columns), draws @ counts)

    value = _mean_of_means(sums.sum(0).reshape(1, many, columns), counts.sum(0)[None])[0]
    return resampled(value, means, len(names), resamples, seed)


def _mean_of_means(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return (r, m) means over the groups that have rows, from sums (r, g, m) and counts (r, g)."""
    held = counts > 0
    own = sums / np.where(held, counts, 1)[:, :, None]  # 0 where a group has no rows
    means: np.ndarray = own.sum(1) / held.sum(1)[:, None]
    return means


def headline_means(
    headline: Headline, values: np.ndarray, clusters: Sequence[str], labelled: pd.Series, resamples: int, seed: int = 0
) -> tuple[dict[str, int], list[Interval]]:
    """Return the number of questions in each group, {} for a mean over questions, and an interval for each column."""
    if not headline.over:
        return {}, clustered_means(values, clusters, resamples, seed)
    found = members(labelled, headline.over)
    counts = {name: int(inside.sum()) for name, inside in found.items()}
    return counts, macro_means(values, clusters, list(found.values()), resamples, seed)
