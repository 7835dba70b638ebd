"""Accuracies with 95% intervals from a bootstrap clustered by video, paired differences, evidence recall.

Questions on one video share its difficulty, so the bootstrap draws whole videos (Miller, "Adding error bars to evals").
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

LEVEL = 0.95
CHUNK = 1 << 24  # resamples x videos drawn at once; bounds the memory
FOUR = (
    "right_frames_right_answer",
    "right_frames_wrong_answer",
    "wrong_frames_right_answer",
    "wrong_frames_wrong_answer",
)


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its 95% interval."""

    value: float
    low: float
    high: float

    def record(self) -> dict[str, float]:
        """Return the interval as JSON, rounded to a millionth."""
        return {name: round(number, 6) for name, number in asdict(self).items()}


def clustered_means(values: np.ndarray, clusters: Sequence[str], resamples: int, seed: int = 0) -> list[Interval]:
    """Return the mean of each column and its percentile interval under resampling of whole clusters.

    `values` is (n, m) float, finite; row i belongs to clusters[i] (a video's id). All columns share the `resamples`,
    seeded draws of as many clusters as there are, with replacement; a draw's mean is the sum over the count of all its
    rows. ValueError for no rows or for values that are not finite.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or not len(values) or len(values) != len(clusters):
        raise ValueError(f"a mean needs rows, one cluster each: values {values.shape}, {len(clusters)} clusters")
    if not np.isfinite(values).all() or resamples < 1:
        raise ValueError(f"a mean needs finite values and at least one resample (got {resamples})")
    names, place = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, place, values)  # (V, m)
    counts = np.bincount(place, minlength=len(names)).astype(np.float64)  # (V,)

    def means(draws: np.ndarray) -> np.ndarray:
        return draws @ sums / (draws @ counts)[:, None]

    return resampled(values.mean(0), means, len(names), resamples, seed)


def resampled(
    value: np.ndarray, means: Callable[[np.ndarray], np.ndarray], clusters: int, resamples: int, seed: int
) -> list[Interval]:
    """Return the (m,) values with the intervals of their `means` (r, m) under draws (r, clusters) of whole clusters."""
    generator, rows = np.random.default_rng(seed), max(1, CHUNK // clusters)
    sizes = (min(rows, resamples - start) for start in range(0, resamples, rows))
    found = [means(generator.multinomial(clusters, np.full(clusters, 1 / clusters), size)) for size in sizes]
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(np.concatenate(found), [tail, 1 - tail], axis=0)
    return [Interval(*map(float, column)) for column in zip(value, low, high, strict=True)]


def paired_difference(
    first: np.ndarray, second: np.ndarray, clusters: Sequence[str], resamples: int, seed: int = 0
) -> Interval:
    """Return the mean of first - second over the same items, (n,) each, with its clustered interval."""
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return clustered_means(difference[:, None], clusters, resamples, seed)[0]


def four_way(recall: np.ndarray, correct: np.ndarray) -> dict[str, float] | None:
    """Return the shares of right/wrong frames x right/wrong answer, or None where no item has known evidence.

    `recall` (n,) is NaN where unknown, `correct` (n,) bool. Frames are right where every interval is hit: with a wrong
    answer they are the noise in the answer reward; wrong frames with a right one are guesses.
    """
    known = ~np.isnan(recall)
    if not known.any():
        return None
    frames, answer = recall[known] >= 1, np.asarray(correct, dtype=bool)[known]
    shares = (frames & answer, frames & ~answer, ~frames & answer, ~frames & ~answer)
    return {name: round(float(share.mean()), 6) for name, share in zip(FOUR, shares, strict=True)}
