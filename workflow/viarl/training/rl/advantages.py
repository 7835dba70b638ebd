"""Token advantages of REINFORCE++ (arXiv 2501.03262) and its variants, and the clipped loss.

    r_t = [t = last] R - beta k1_t        k1_t = log pi_old - log pi_ref
    A_t = sum over s >= t of gamma^(s-t) r_s
    Â_t = (A_t - mean) / std              over all valid tokens of the global batch
    loss = -mean over tokens of min(ratio Â, clip(ratio, 1 ± epsilon) Â)

Departure from the authors' code, towards the algorithm: they whiten on each GPU by itself, here it is the global batch,
through `sum_over_processes` (accelerate's reduce, or the identity).
"""

from collections.abc import Callable

import torch

Sum = Callable[[torch.Tensor], torch.Tensor]


def shape_rewards(rewards: torch.Tensor, group_size: int, algorithm: str) -> torch.Tensor:
    """Return what each completion's last token earns; rewards (N,), completions of a group adjacent.

    `reinforce++` leaves the reward; `reinforce++-baseline` subtracts the group's mean; `group-normalised` also divides
    by the group's standard deviation, where that is not zero.
    """
    if algorithm == "reinforce++":
        return rewards
    groups = rewards.view(-1, group_size)
    centred = groups - groups.mean(1, keepdim=True)
    if algorithm == "group-normalised":
        deviation = groups.std(1, keepdim=True, correction=0)
        centred = torch.where(deviation > 1e-6, centred / deviation.clamp(min=1e-6), torch.zeros_like(centred))
    return centred.reshape(-1)


def returns_to_go(
    rewards: torch.Tensor, kl: torch.Tensor, mask: torch.Tensor, beta: float, gamma: float
) -> torch.Tensor:
    """Return each token's discounted sum of rewards to come, (N, T), zero where `mask` is.

    `rewards` (N,) are earned by the last valid token, `kl` (N, T) is each token's k1; `mask` (N, T) bool is true for a
    completion's tokens, which come first in each row.
    """
    token_rewards = -beta * kl * mask
    last = mask.sum(1) - 1
    token_rewards[torch.arange(len(rewards), device=rewards.device), last] += rewards
    returns = torch.zeros_like(token_rewards)
    running = torch.zeros_like(rewards)
    for step in reversed(range(mask.shape[1])):
        running = token_rewards[:, step] + gamma * running
        returns[:, step] = running
    return returns * mask


def whiten(values: torch.Tensor, mask: torch.Tensor, sum_over_processes: Sum) -> torch.Tensor:
    """Return (values - mean) / std over all tokens where `mask`, of all processes; zero elsewhere. (N, T) -> (N, T)."""
    totals = sum_over_processes(torch.stack([(values * mask).sum(), mask.sum().to(values.dtype)]))
    centred = (values - totals[0] / totals[1]) * mask
    variance = sum_over_processes((centred**2).sum()[None])[0] / totals[1]
    return centred * torch.rsqrt(variance + 1e-8)


def token_advantages(
    rewards: torch.Tensor,
    kl: torch.Tensor,
    mask: torch.Tensor,
    *,
    group_size: int,
    algorithm: str,
    beta: float,
    gamma: float,
    sum_over_processes: Sum,
) -> torch.Tensor:
    """Return the advantages (N, T) of one rollout; `group-normalised` is not whitened: it is scaled in its groups."""
    returns = returns_to_go(shape_rewards(rewards, group_size, algorithm), kl, mask, beta, gamma)
    return returns if algorithm == "group-normalised" else whiten(returns, mask, sum_over_processes)


def policy_loss(
    log_probs: torch.Tensor, old_log_probs: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return PPO's clipped loss, a scalar summed over tokens, and how many tokens the clip bounded.

    All arguments but `epsilon` are (N, T). The caller divides by the tokens of the global batch.
    """
    ratio = torch.exp(log_probs - old_log_probs)
    bounded = ratio.clamp(1 - epsilon, 1 + epsilon)
    gain = torch.minimum(ratio * advantages, bounded * advantages)
    with torch.no_grad():
        clipped = ((bounded * advantages < ratio * advantages) & mask).sum()
    return -(gain * mask).sum(), clipped
