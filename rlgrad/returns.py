"""Values credited to actions: return to go, n-step and generalised advantage estimates.

All tensors are ``[S, T, N]`` (time in the middle, so that a seed's rows are contiguous).
Termination ends the sum; truncation ends the episode but not the value: the critic's value of the
true last observation stands for the rest, where there is a critic.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlgrad.estimators.arrays import native


def return_to_go(
    reward: Float[Tensor, "S T N"], done: Bool[Tensor, "S T N"], gamma: float
) -> Float[Tensor, "S T N"]:
    """G_t = r_t + gamma G_{t+1} within the episode; zero beyond its end and beyond T.

    A truncated episode's sum ends at the truncation: without a critic nothing stands for the rest.
    Not multiplied by gamma^t: with gamma < 1 the policy gradient is the usual one, not that of the
    discounted return.
    """
    sums = reward.clone()
    # By doubling: T steps take log2 T operations. After a turn with distance d a sum spans 2 d
    # steps, and ``keep`` is the product of d factors.
    total, keep = native(sums), native(gamma * (~done).to(reward))
    distance, length = 1, reward.shape[1]
    while distance < length:
        left = length - distance
        total[:, :left] += keep[:, :left] * total[:, distance:]
        keep = keep[:, : max(0, left - distance)] * keep[:, distance:left]
        distance *= 2
    return sums


def temporal_differences(
    reward: Float[Tensor, "S T N"],
    value: Float[Tensor, "S T N"],
    next_value: Float[Tensor, "S T N"],
    terminated: Bool[Tensor, "S T N"],
    gamma: float,
) -> Float[Tensor, "S T N"]:
    """delta_t = r_t + gamma V(true next observation) - V(observation), V = 0 after termination."""
    return reward + gamma * torch.where(terminated, 0.0, next_value) - value


def gae(
    reward: Float[Tensor, "S T N"],
    value: Float[Tensor, "S T N"],
    next_value: Float[Tensor, "S T N"],
    terminated: Bool[Tensor, "S T N"],
    truncated: Bool[Tensor, "S T N"],
    gamma: float,
    gae_lambda: float,
) -> Float[Tensor, "S T N"]:
    """Generalised advantage estimates (Schulman et al. 2016, arXiv:1506.02438).

    Args:
        reward: ``[S, T, N]``.
        value: ``[S, T, N]`` critic's value of the observation.
        next_value: ``[S, T, N]`` of the true next observation, before any reset.
        terminated: ``[S, T, N]``; the value after it is zero.
        truncated: ``[S, T, N]``; the sum of differences ends, the value after it counts.
        gamma: discount per step.
        gae_lambda: 1 is Monte-Carlo up to the rollout's end, 0 one step.
    """
    delta = temporal_differences(reward, value, next_value, terminated, gamma)
    return return_to_go(delta, terminated | truncated, gamma * gae_lambda)


def n_step(
    reward: Float[Tensor, "S T N"],
    value: Float[Tensor, "S T N"],
    next_value: Float[Tensor, "S T N"],
    terminated: Bool[Tensor, "S T N"],
    truncated: Bool[Tensor, "S T N"],
    gamma: float,
    steps: int,
) -> Float[Tensor, "S T N"]:
    """n-step advantages: n rewards, then the critic's value, minus the value at the start.

    Fewer rewards where the episode or the rollout ends sooner. Arguments as for ``gae``; ``steps``
    is n, 0 or above T meaning up to the rollout's end.
    """
    length = reward.shape[1]
    if steps == 0 or steps >= length:
        return gae(reward, value, next_value, terminated, truncated, gamma, 1.0)
    delta = temporal_differences(reward, value, next_value, terminated, gamma)
    keep = gamma * (~(terminated | truncated)).to(reward)
    total = delta
    for _ in range(steps - 1):
        later = torch.cat([total[:, 1:], torch.zeros_like(total[:, :1])], 1)
        total = torch.addcmul(delta, keep, later)
    return total
