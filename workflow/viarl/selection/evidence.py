"""Which candidate frames show the evidence, and how much of it a selection hits."""

from collections.abc import Collection, Sequence

import numpy as np


def evidence_frames(times: np.ndarray, evidence: Sequence[tuple[float, float]]) -> list[list[int]]:
    """Return for each evidence interval, in their order, the candidate frames that show it.

    Those inside, ends included; where none is (a short interval in a long video), the nearest.
    """
    distances = [away(times, start, end) for start, end in evidence]
    return [np.flatnonzero(seconds == seconds.min()).tolist() for seconds in distances]


def away(times: np.ndarray, start: float, end: float) -> np.ndarray:
    """Return the seconds between each frame and an interval, 0 inside."""
    times = np.asarray(times, dtype=np.float64)
    return np.maximum(np.maximum(start - times, times - end), 0)


def evidence_recall(times: np.ndarray, evidence: Sequence[tuple[float, float]], selected: Collection[int]) -> float:
    """Return the share of evidence intervals, [(start, end)] in seconds, that the selected frames hit; NaN without any.

    An interval without a candidate inside is hit by the nearest one: no selection could hit it otherwise.
    """
    if not evidence:
        return float("nan")
    chosen = set(selected)
    return sum(not chosen.isdisjoint(frames) for frames in evidence_frames(times, evidence)) / len(evidence)
