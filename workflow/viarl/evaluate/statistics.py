"""Accuracies with 95% intervals from a bootstrap clustered by video, paired differences, evidence recall.

Questions on one video share its difficulty, so the bootstrap draws whole videos (Miller, "Adding error bars to evals").
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

LEVEL = 0.95
CHUNK = 1 << 24  # resamples x videos drawn at once; bounds the memory


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

    Args:
        values: (n, m) float, finite; row i belongs to clusters[i]. All columns share the resamples.
        clusters: n names (video ids).
        resamples: bootstrap draws.
        seed: of the draws.

    A resample draws as many clusters as there are, with replacement; its mean is the sum over the count of all rows
    drawn. ValueError for no rows or for values that are not finite.
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
    generator = np.random.default_rng(seed)
    means = []
    rows = max(1, CHUNK // len(names))
    for start in range(0, resamples, rows):
        draws = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), min(rows, resamples - start))
        means.append(draws @ sums / (draws @ counts)[:, None])
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0)
    value = values.mean(0)
    return [Interval(*map(float, column)) for column in zip(value, low, high, strict=True)]


def paired_difference(
    first: np.ndarray, second: np.ndarray, clusters: Sequence[str], resamples: int, seed: int = 0
) -> Interval:
    """Return the mean of first - second over the same items, (n,) each, with its clustered interval."""
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return clustered_means(difference[:, None], clusters, resamples, seed)[0]


def four_way(recall: np.ndarray, correct: np.ndarray) -> dict[str, float] | None:
    """Return the shares of right/wrong frames x right/wrong answer, or None where no item has known evidence.

    Args:
        recall: (n,) evidence recall, NaN unknown; frames are right where every interval is hit.
        correct: (n,) bool.

    Right frames with a wrong answer are the noise in the answer reward; wrong frames with a right one are guesses.
    """
    known = ~np.isnan(recall)
    if not known.any():
        return None
    frames, answer = recall[known] >= 1, np.asarray(correct, dtype=bool)[known]
    return {
        "right_frames_right_answer": round(float((frames & answer).mean()), 6),
        "right_frames_wrong_answer": round(float((frames & ~answer).mean()), 6),
        "wrong_frames_right_answer": round(float((~frames & answer).mean()), 6),
        "wrong_frames_wrong_answer": round(float((~frames & ~answer).mean()), 6),
    }
