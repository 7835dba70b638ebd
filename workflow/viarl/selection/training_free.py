"""Selection without training: the baselines that a learned selector has to beat at the same frame budget.

Each function returns `min(selected, count)` different frame indices, sorted. Similarities are CLIP's, shape (count,).
Where a published method would hand out fewer frames than the budget, the most similar frames that are left fill up.

Sources: BOLT (inverse transform sampling), AKS (adaptive keyframe sampling), Q-Frame (Gumbel top-K).
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from viarl.selection.evidence import away, evidence_frames
from viarl.selection.uniform import uniform


def item_generator(draw: int, item_id: str) -> np.random.Generator:
    """Return a generator that depends on the number of the draw and the item alone, not on other items."""
    digest = hashlib.sha256(f"{draw} {item_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def random(count: int, selected: int, generator: np.random.Generator) -> list[int]:
    """Return K of the frames, drawn without replacement."""
    if count < 1 or selected < 1:
        raise ValueError(f"random selection needs at least one frame, got count={count}, selected={selected}")
    return sorted(generator.permutation(count)[: min(selected, count)].tolist())


def clip_topk(scores: np.ndarray, selected: int) -> list[int]:
    """Return the K most similar frames; of equals, the earlier. ValueError for scores that are no usable vector."""
    return _filled([], _checked(scores, selected), selected)


def clip_bottomk(scores: np.ndarray, selected: int) -> list[int]:
    """Return the K least similar frames; of equals, the earlier (for the contrast rule of the filter)."""
    return _filled([], -_checked(scores, selected), selected)


def bolt(scores: np.ndarray, selected: int, alpha: float = 3.0) -> list[int]:
    """Return frames at evenly spaced quantiles of the distribution that is proportional to minmax(scores) ** alpha.

    Quantiles: linspace(1/K, 1 - 1/K, K). Constant scores, where no distribution is defined, give uniform frames.
    """
    scores = _checked(scores, selected)
    if np.ptp(scores) == 0:
        return uniform(len(scores), selected)
    weights = _minmax(scores) ** alpha
    cumulative = np.cumsum(weights / weights.sum())
    quantiles = np.linspace(1 / selected, 1 - 1 / selected, selected)
    # the last sum may fall short of 1 by rounding, and K = 1 asks for the quantile 1
    picks = np.minimum(np.searchsorted(cumulative, quantiles), len(scores) - 1)
    return _filled(picks.tolist(), scores, selected)


def aks(scores: np.ndarray, selected: int, threshold: float = 0.8, depth: int = 5) -> list[int]:
    """Return the best frames of each segment of a video that is halved as long as no frames stand out.

    A segment at depth d of the min-max scores is kept whole if mean(its top K) - mean(all of it) > `threshold`,
    else halved, down to `depth`, but never below log2(K), where a segment's share floor(K / 2^d) would be 0.
    Constant scores give uniform frames.
    """
    scores = _checked(scores, selected)
    if np.ptp(scores) == 0:
        return uniform(len(scores), selected)
    normalised = _minmax(scores)
    deepest = min(depth, selected.bit_length() - 1)
    picks: list[int] = []
    segments = [(0, len(scores), 0)]
    while segments:
        start, end, level = segments.pop()
        segment = normalised[start:end]
        standing_out = np.sort(segment)[::-1][:selected].mean() - segment.mean() > threshold
        if not standing_out and level < deepest and end - start > 1:
            middle = start + (end - start) // 2
            segments += [(start, middle, level + 1), (middle, end, level + 1)]
        else:
            picks += [start + index for index in clip_topk(segment, selected // 2**level)]
    return _filled(picks, scores, selected)


def qframe(scores: np.ndarray, selected: int, generator: np.random.Generator, temperature: float = 0.8) -> list[int]:
    """Return the top K of log softmax(scores / temperature) + Gumbel noise: K draws without replacement."""
    logits = _checked(scores, selected) / temperature
    logits = logits - logits.max()
    noisy = logits - np.log(np.exp(logits).sum()) + generator.gumbel(size=len(logits))
    return _filled([], noisy, selected)


def oracle(times: np.ndarray, evidence: Sequence[tuple[float, float]], selected: int) -> list[int]:
    """Return K frames spread inside the evidence, [(start, end)], as evenly as possible over its intervals.

    `times` (count,) are ascending; all are in seconds. Where the evidence holds fewer than K candidates, the frames
    nearest to it in time fill up. ValueError without evidence: the oracle is then not defined.
    """
    if not evidence:
        raise ValueError("the oracle needs evidence intervals; leave it out where they are unknown")
    times = np.asarray(times, dtype=np.float64)
    if times.ndim != 1 or not len(times) or selected < 1:
        raise ValueError(f"the oracle needs at least one frame, got times {times.shape}, selected={selected}")
    pools = evidence_frames(times, sorted(evidence))
    distance = np.min([away(times, start, end) for start, end in evidence], axis=0)
    quotas = [0] * len(pools)
    for _ in range(selected):  # one frame at a time to the interval that has the fewest and can take more
        open_pools = [number for number, pool in enumerate(pools) if quotas[number] < len(pool)]
        if open_pools:
            quotas[min(open_pools, key=lambda number: (quotas[number], number))] += 1
    picks = [pool[i] for pool, quota in zip(pools, quotas, strict=True) if quota for i in uniform(len(pool), quota)]
    return _filled(picks, -distance, selected)


def _checked(scores: np.ndarray, selected: int) -> np.ndarray:
    """Return the scores as (count,) float64; ValueError for what no selector can use."""
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 1 or not len(scores) or selected < 1:
        raise ValueError(f"selection needs a vector of scores and K >= 1, got {scores.shape}, K={selected}")
    if not np.isfinite(scores).all():
        raise ValueError("the similarities hold NaN or infinity; make them again with score_frames")
    return scores


def _minmax(scores: np.ndarray) -> np.ndarray:
    return (scores - scores.min()) / np.ptp(scores)


def _filled(picks: Sequence[int], preference: np.ndarray, selected: int) -> list[int]:
    """Return the different picks, completed to min(K, count) by the highest `preference`; of equals, the earlier."""
    chosen = set(picks)
    for index in np.argsort(-preference, kind="stable").tolist():
        if len(chosen) >= min(selected, len(preference)):
            break
        chosen.add(index)
    return sorted(chosen)
