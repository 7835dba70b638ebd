"""Training-free selectors against picks worked out by hand from their published definitions."""

import numpy as np
import pytest

from viarl.selection.training_free import aks, bolt, clip_bottomk, clip_topk, item_generator, oracle, qframe, random

TEN = np.array([0.1, 0.9, 0.2, 0.8, 0.3, 0.7, 0.4, 0.6, 0.5, 0.0])


def test_clip_topk_and_bottomk() -> None:
    assert clip_topk(TEN, 3) == [1, 3, 5]
    assert clip_bottomk(TEN, 3) == [0, 2, 9]
    assert clip_topk(np.array([0.5, 0.7, 0.7, 0.7]), 2) == [1, 2]  # of equals, the earlier


def test_bolt_takes_quantiles_of_the_cubed_similarities() -> None:
    # minmax: 0, .5, 1, .5; cubed: 0, .125, 1, .125; cumulative shares of 1.25: 0, .1, .9, 1.
    # quantiles for K = 3: 1/3, 1/2, 2/3, all in frame 2; the most similar ones left, 1 and 3, fill up.
    scores = np.array([0.2, 0.3, 0.4, 0.3])
    assert bolt(scores, 3) == [1, 2, 3]
    assert bolt(scores, 1) == [3]  # quantile 1 is where the sum reaches 1
    # K = 2 asks for 1/2 twice; two equal peaks share the mass, and the first holds half of it
    assert bolt(np.array([0.0, 1.0, 0.0, 1.0]), 2) == [1, 3]


def test_bolt_without_repetition_is_the_plain_formula() -> None:
    # minmax = scores / 4; cubes: 0, 1, 8, 27, 64 of 100: cumulative 0, .01, .09, .36, 1; quantiles 1/2, 1/2 -> frame 4
    assert bolt(np.array([0.0, 1.0, 2.0, 3.0, 4.0]), 2) == [3, 4]
    # alpha 1: cumulative 0, .1, .3, .6, 1; K = 4: 1/4, 5/12, 7/12, 3/4 -> 2, 3, 3, 4; frame 1 fills up
    assert bolt(np.array([0.0, 1.0, 2.0, 3.0, 4.0]), 4, alpha=1) == [1, 2, 3, 4]


def test_aks_keeps_a_video_whole_whose_best_frames_stand_out() -> None:
    scores = np.zeros(32)
    scores[[20, 21, 22, 23]] = 1  # mean of the top 4 is 1, of all 0.125: 0.875 > 0.8
    assert aks(scores, 4) == [20, 21, 22, 23]


def test_aks_splits_where_nothing_stands_out() -> None:
    # top 2 of all: mean .95, mean of all .55: .4 < .8, so it is halved; each half gives one frame, its best
    scores = np.array([1.0, 0.2, 0.3, 0.7, 0.9, 0.0, 0.6, 0.7])
    assert aks(scores, 2) == [0, 4]
    # K = 3 is floored to 1 a half; the most similar frame left is 3 (0.7, the earlier of two)
    assert aks(scores, 3) == [0, 3, 4]


def test_aks_depth_is_capped_so_that_every_segment_keeps_a_frame() -> None:
    # the rising scores never stand out: 8 frames of 64 come from 8 segments (depth 3), each one's last frame
    assert aks(np.arange(64.0), 8) == [7, 15, 23, 31, 39, 47, 55, 63]


def test_aks_keeps_one_half_whole_and_splits_the_other() -> None:
    # 64 frames: all: top-4 mean 1, mean (32 x .4 + 4) / 64 = .26: .74 < .8, so it is halved. Second half: 1 - 4 / 32
    # = .875 > .8: kept whole, its share is 2. First half: 0, halved again, one frame from each quarter.
    scores = np.concatenate([np.full(32, 0.4), np.zeros(32)])
    scores[[40, 44, 48, 60]] = 1
    assert aks(scores, 4) == [0, 16, 40, 44]
    assert aks(scores, 4, threshold=1.0) == [0, 16, 40, 48]  # nothing stands out by more: four quarters


def test_qframe_is_topk_of_log_softmax_plus_gumbel() -> None:
    noise = np.random.default_rng(5).gumbel(size=10)
    expected = sorted(np.argsort(-(TEN / 0.8 + noise))[:4].tolist())  # the softmax's constant changes no order
    assert qframe(TEN, 4, np.random.default_rng(5)) == expected
    large = np.array([0.0, 0.0, 1000.0, 900.0])  # no overflow; noise cannot turn this round
    assert qframe(large, 2, np.random.default_rng(0)) == [2, 3]


def test_random_draws_without_replacement_and_depend_on_draw_and_item_alone() -> None:
    first = random(32, 4, item_generator(0, "a"))
    assert len(set(first)) == 4 and first == sorted(first) == random(32, 4, item_generator(0, "a"))
    assert first != random(32, 4, item_generator(1, "a")) and first != random(32, 4, item_generator(0, "b"))
    hits = np.bincount([index for draw in range(2000) for index in random(8, 2, item_generator(draw, "a"))])
    assert (abs(hits - 500) < 80).all()  # 500 expected, standard deviation 19


def test_oracle_spreads_inside_the_evidence() -> None:
    times = np.arange(10.0)
    assert oracle(times, [(2.0, 8.0)], 4) == [2, 4, 6, 8]
    assert oracle(times, [(2.0, 3.0), (6.0, 9.0)], 4) == [2, 3, 6, 9]  # two each
    assert oracle(times, [(2.0, 2.0), (5.0, 9.0)], 3) == [2, 5, 9]  # one is all that the first can give


def test_oracle_fills_up_with_the_nearest_frames() -> None:
    assert oracle(np.arange(10.0), [(4.0, 5.0)], 4) == [3, 4, 5, 6]
    assert oracle(np.arange(10.0), [(4.2, 4.4)], 1) == [4]  # between two candidates: the nearest
    assert oracle(np.arange(3.0), [(0.0, 0.0)], 5) == [0, 1, 2]
    assert oracle(np.arange(10.0), [(0.0, 4.0), (1.0, 2.0)], 3) == [0, 1, 4]  # overlapping: frame 1 counts once
    with pytest.raises(ValueError, match="evidence"):
        oracle(np.arange(3.0), [], 2)


@pytest.mark.parametrize("function", [clip_topk, bolt, aks, lambda s, k: qframe(s, k, np.random.default_rng(0))])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 32])
@pytest.mark.parametrize("selected", [1, 3, 4, 8])
def test_every_selector_keeps_to_the_budget(function, count: int, selected: int) -> None:
    for scores in (np.random.default_rng(count).random(count), np.zeros(count), np.full(count, 0.3)):
        picks = function(scores, selected)
        assert picks == sorted(set(picks)) and len(picks) == min(selected, count)
        assert picks[0] >= 0 and picks[-1] < count


@pytest.mark.parametrize("function", [bolt, aks])
def test_constant_scores_give_uniform_frames(function) -> None:
    assert function(np.full(10, 0.25), 4) == [0, 3, 6, 9]


@pytest.mark.parametrize("scores", [np.array([]), np.zeros((2, 2)), np.array([0.1, np.nan])])
def test_unusable_scores_are_refused(scores: np.ndarray) -> None:
    for function in (clip_topk, bolt, aks):
        with pytest.raises(ValueError):
            function(scores, 2)
