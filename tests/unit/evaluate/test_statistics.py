"""Bootstrap, paired difference, evidence recall and the four-way table against examples worked out by hand."""

import math

import numpy as np
import pytest

from viarl.evaluate.statistics import clustered_means, four_way, paired_difference
from viarl.selection.evidence import evidence_recall


def test_two_videos_have_three_possible_resamples() -> None:
    # Video a: one item, right. Video b: three items, wrong. Resamples: aa -> 1, ab or ba -> 1/4, bb -> 0, with
    # probabilities 1/4, 1/2, 1/4: the 2.5% and 97.5% points are 0 and 1, although 1 of 4 is right.
    values, videos = np.array([[1.0], [0.0], [0.0], [0.0]]), ["a", "b", "b", "b"]
    (interval,) = clustered_means(values, videos, 4000)
    assert (interval.value, interval.low, interval.high) == (0.25, 0.0, 1.0)


def test_resampled_means_have_the_distribution_of_the_hand_worked_example(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def quantile(means: np.ndarray, tails: list[float], axis: int) -> np.ndarray:
        seen["means"] = means
        return original(means, tails, axis=axis)

    original = np.quantile
    monkeypatch.setattr(np, "quantile", quantile)
    clustered_means(np.array([[1.0], [0.0], [0.0], [0.0]]), ["a", "b", "b", "b"], 4000)
    shares = {value: float((seen["means"] == value).mean()) for value in (0.0, 0.25, 1.0)}
    assert sum(shares.values()) == 1
    assert shares == pytest.approx({0.0: 0.25, 0.25: 0.5, 1.0: 0.25}, abs=0.03)  # standard deviation 0.008


def test_one_video_leaves_no_spread() -> None:
    (interval,) = clustered_means(np.array([[1.0], [0.0]]), ["a", "a"], 100)
    assert (interval.value, interval.low, interval.high) == (0.5, 0.5, 0.5)


def test_single_items_give_the_binomial_interval() -> None:
    # 400 videos with one item, 300 right: the normal approximation is .75 -+ 1.96 sqrt(.75 x .25 / 400) = -+ .0424
    values = np.repeat([1.0, 0.0], [300, 100])[:, None]
    (interval,) = clustered_means(values, [str(number) for number in range(400)], 4000)
    assert interval.low == pytest.approx(0.75 - 0.0424, abs=0.005)
    assert interval.high == pytest.approx(0.75 + 0.0424, abs=0.005)


def test_clusters_of_equal_items_widen_the_interval() -> None:
    # the same 400 items as 100 videos of four equal answers: as wide as 100 single items
    values = np.repeat([1.0, 0.0], [300, 100])[:, None]
    (clustered,) = clustered_means(values, [str(number // 4) for number in range(400)], 4000)
    assert clustered.high - clustered.low == pytest.approx(2 * 1.96 * math.sqrt(0.75 * 0.25 / 100), abs=0.015)


def test_the_same_seed_gives_the_same_interval_and_columns_share_their_resamples() -> None:
    values = np.random.default_rng(0).integers(0, 2, (60, 2)).astype(float)
    videos = [str(number // 3) for number in range(60)]
    both = clustered_means(values, videos, 500, seed=3)
    assert both == clustered_means(values, videos, 500, seed=3)
    assert both[1] == clustered_means(values[:, 1:], videos, 500, seed=3)[0]
    assert both != clustered_means(values, videos, 500, seed=4)


def test_chunks_do_not_change_the_sample_size(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random((40, 1))
    videos = [str(number) for number in range(40)]
    whole = clustered_means(values, videos, 1000)[0]
    monkeypatch.setattr("viarl.evaluate.statistics.CHUNK", 40 * 7)
    assert clustered_means(values, videos, 1000)[0] == whole  # the generator goes on from chunk to chunk


def test_paired_difference() -> None:
    # a: +1, 0 in video x; b: 0, +1, +1 in video y: mean 3/5. Resamples: xx 1/2, xy 3/5, yy 2/3.
    first, second = np.array([1.0, 1.0, 0.0, 1.0, 1.0]), np.array([0.0, 1.0, 0.0, 0.0, 0.0])
    interval = paired_difference(first, second, ["x", "x", "y", "y", "y"], 2000)
    assert (interval.value, interval.low, interval.high) == pytest.approx((0.6, 0.5, 2 / 3))


def test_equal_selectors_have_no_difference() -> None:
    values = np.random.default_rng(0).random(20)
    interval = paired_difference(values, values, [str(number) for number in range(20)], 100)
    assert (interval.value, interval.low, interval.high) == (0, 0, 0)


@pytest.mark.parametrize(
    ("values", "clusters"), [(np.zeros((0, 1)), []), (np.zeros((2, 1)), ["a"]), (np.array([[np.nan]]), ["a"])]
)
def test_unusable_values_are_refused(values: np.ndarray, clusters: list[str]) -> None:
    with pytest.raises(ValueError, match="a mean needs"):
        clustered_means(values, clusters, 10)


@pytest.mark.parametrize(
    ("selected", "evidence", "recall"),
    [
        ([0, 5, 9], [(4.0, 6.0)], 1.0),
        ([0, 5, 9], [(6.0, 8.9)], 0.0),
        ([0, 5, 9], [(5.0, 7.0), (1.0, 2.0)], 0.5),  # the ends count
        ([4, 5], [(4.0, 5.0), (8.0, 9.0), (1.0, 2.0)], 1 / 3),  # two frames in one interval hit it once
        ([], [(4.0, 5.0)], 0.0),
        ([3, 7], [(3.1, 3.3), (6.6, 6.7), (20.0, 21.0)], 2 / 3),  # no candidate inside: the nearest one hits
        ([9], [(20.0, 21.0)], 1.0),
        ([4], [(3.5, 3.5)], 1.0),  # two are the nearest
    ],
)
def test_evidence_recall(selected: list[int], evidence: list[tuple[float, float]], recall: float) -> None:
    """Of ten candidates, a second apart."""
    assert evidence_recall(np.arange(10.0), evidence, selected) == pytest.approx(recall)


def test_evidence_recall_is_unknown_without_evidence() -> None:
    assert math.isnan(evidence_recall(np.arange(2.0), [], [1]))


def test_four_way() -> None:
    recall = np.array([1.0, 1.0, 0.5, 0.0, np.nan])
    correct = np.array([True, False, True, False, True])
    assert four_way(recall, correct) == dict.fromkeys(
        [
            "right_frames_right_answer",
            "right_frames_wrong_answer",
            "wrong_frames_right_answer",
            "wrong_frames_wrong_answer",
        ],
        0.25,
    )
    assert four_way(np.array([np.nan]), np.array([True])) is None
