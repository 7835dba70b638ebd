"""REINFORCE++'s formulas in float64 against numbers worked out by hand."""

import math

import pytest
import torch

from viarl.training.rl.advantages import policy_loss, returns_to_go, shape_rewards, token_advantages, whiten

MASK = torch.tensor([[True, True, True], [True, True, False]])
KL = torch.tensor([[0.1, 0.2, -0.4], [0.5, 0.0, 9.0]], dtype=torch.float64)  # 9.0 lies in the padding
REWARDS = torch.tensor([4.0, 1.0], dtype=torch.float64)


def identity(tensor):
    return tensor


def close(tensor, expected):
    return torch.allclose(tensor, torch.tensor(expected, dtype=torch.float64), atol=1e-12)


def test_returns_to_go_with_the_kl_in_the_reward():
    """beta 0.1: token rewards (-0.01, -0.02, 4.04) and (-0.05, 1); padding earns nothing."""
    assert close(returns_to_go(REWARDS, KL, MASK, 0.1, 1.0), [[4.01, 4.02, 4.04], [0.95, 1.0, 0.0]])


def test_gamma_discounts_the_future():
    """gamma 0.5: 4.04; -0.02 + 2.02 = 2.00; -0.01 + 1.00 = 0.99 | 1; -0.05 + 0.5 = 0.45."""
    assert close(returns_to_go(REWARDS, KL, MASK, 0.1, 0.5), [[0.99, 2.0, 4.04], [0.45, 1.0, 0.0]])


def test_gamma_zero_keeps_each_tokens_own_reward():
    assert close(returns_to_go(REWARDS, KL, MASK, 0.1, 0.0), [[-0.01, -0.02, 4.04], [-0.05, 1.0, 0.0]])


def test_whitening_is_over_valid_tokens_only():
    """Values 1, 2, 3 and 4, 5: mean 3, variance 2; the padding's 100 does not count and becomes 0."""
    values = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 100.0]], dtype=torch.float64)
    root = math.sqrt(2 + 1e-8)
    assert close(whiten(values, MASK, identity), [[-2 / root, -1 / root, 0], [1 / root, 2 / root, 0]])


def test_whitening_of_two_processes_is_that_of_the_global_batch():
    """Each process holds one row; their sums are added, in turn for the mean and for the variance."""
    values = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 100.0]], dtype=torch.float64)
    others = {
        0: [torch.tensor([9.0, 2.0]), torch.tensor([5.0])],  # row 1: 4 + 5, 2 tokens; (1 + 4) around 3
        1: [torch.tensor([6.0, 3.0]), torch.tensor([5.0])],  # row 0: 1 + 2 + 3, 3 tokens; (4 + 1 + 0)
    }
    whole = whiten(values, MASK, identity)
    for rank in (0, 1):
        remote = iter(others[rank])
        part = whiten(values[rank : rank + 1], MASK[rank : rank + 1], lambda own, remote=remote: own + next(remote))
        assert torch.allclose(part, whole[rank : rank + 1], atol=1e-12)


def test_longer_completions_weigh_more_in_the_moments():
    """Two rewards 1 and 0, of three and of one token: mean 3/4, not 1/2."""
    mask = torch.tensor([[True, True, True], [True, False, False]])
    values = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    deviation = math.sqrt(3 / 16 + 1e-8)
    assert close(whiten(values, mask, identity), [[0.25 / deviation] * 3, [-0.75 / deviation, 0, 0]])


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        ("reinforce++", [4.0, 0.0, 2.0, 2.0]),
        ("reinforce++-baseline", [2.0, -2.0, 0.0, 0.0]),
        ("group-normalised", [1.0, -1.0, 0.0, 0.0]),  # deviation of (4, 0) is 2; a group without spread teaches nothing
    ],
)
def test_variants_shape_the_reward_in_groups(algorithm, expected):
    rewards = torch.tensor([4.0, 0.0, 2.0, 2.0], dtype=torch.float64)
    assert close(shape_rewards(rewards, 2, algorithm), expected)


def advantages(algorithm, beta=0.1):
    return token_advantages(
        REWARDS, KL, MASK, group_size=2, algorithm=algorithm, beta=beta, gamma=1.0, sum_over_processes=identity
    )


def test_reinforce_plus_plus_whole():
    """Returns 4.01, 4.02, 4.04, 0.95, 1.0: mean 2.804, centred 1.206, 1.216, 1.236, -1.854, -1.804."""
    centred = [1.206, 1.216, 1.236, -1.854, -1.804]
    root = math.sqrt(sum(value**2 for value in centred) / 5 + 1e-8)
    white = [value / root for value in centred]
    assert close(advantages("reinforce++"), [white[:3], [*white[3:], 0.0]])


def test_baseline_whole():
    """Rewards 1.5, -1.5 after the group's mean 2.5: returns 1.51, 1.52, 1.54, -1.55, -1.5: mean 0.304."""
    centred = [value - 0.304 for value in (1.51, 1.52, 1.54, -1.55, -1.5)]
    root = math.sqrt(sum(value**2 for value in centred) / 5 + 1e-8)
    white = [value / root for value in centred]
    assert close(advantages("reinforce++-baseline"), [white[:3], [*white[3:], 0.0]])


def test_group_normalised_is_not_whitened():
    assert close(advantages("group-normalised", beta=0.0), [[1.0, 1.0, 1.0], [-1.0, -1.0, 0.0]])


def test_clip_bounds_gain_but_not_loss():
    """Ratios 1.5 and 0.5 for advantages +1 and -1, epsilon 0.2.

    Gains: 1.5 -> 1.2 (clipped), -1.5 stays, 0.5 stays, -0.5 -> -0.8 (clipped); the padding does not count.
    """
    ratio = torch.tensor([[1.5, 1.5, 0.5, 0.5, 7.0]], dtype=torch.float64).log()
    advantage = torch.tensor([[1.0, -1.0, 1.0, -1.0, 1.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, True, True, False]])
    loss, clipped = policy_loss(ratio, torch.zeros_like(ratio), advantage, mask, 0.2)
    assert loss.item() == pytest.approx(-(1.2 - 1.5 + 0.5 - 0.8))
    assert clipped.item() == 2


def test_gradient_of_the_loss_is_that_of_reinforce_at_the_first_update():
    """With ratio 1 the gradient of the summed loss is minus the advantage at each valid token."""
    log_probs = torch.tensor([[-1.0, -2.0, -3.0]], dtype=torch.float64, requires_grad=True)
    advantage = torch.tensor([[0.5, -1.5, 2.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False]])
    policy_loss(log_probs, log_probs.detach(), advantage, mask, 0.2)[0].backward()
    assert close(log_probs.grad, [[-0.5, 1.5, 0.0]])
