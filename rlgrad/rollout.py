"""The only code that steps an environment for training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlgrad.lanes import Lanes, Step


class Rollout(NamedTuple):
    """T steps of N lanes of S seeds; rows that are no transitions are marked, not removed."""

    observation: Tensor
    """``[S, T, N, F]`` float32."""
    last: Tensor
    """``[S, N, F]``, the observation after the last step."""
    final: Tensor | None
    """``[S, T, N, F]``, the true next observations; None where no episode was truncated."""
    action: Tensor
    """``[S, T, N, D]`` int64."""
    gumbel: Tensor
    """``[S, T, N, D, A]``, the noise that drew the actions."""
    reward: Tensor
    """``[S, T, N]`` float32."""
    terminated: Tensor
    """``[S, T, N]`` bool."""
    truncated: Tensor
    """``[S, T, N]`` bool."""
    valid: Tensor
    """``[S, T, N]`` bool."""


Policy = Callable[[Tensor], Tensor]
"""Observations ``[S, N, F]`` -> logits ``[S, N, D, A]``."""


def _assemble(
    observations: Sequence[Tensor],
    actions: Sequence[Tensor],
    gumbel: Tensor,
    steps: Sequence[Step],
    valid: Sequence[Tensor],
    shape: tuple[int, int, int],
) -> Rollout:
    """Stack T steps, padding to the static length with rows that do not count."""
    S, T, N = shape

    def stack(rows: Sequence[Tensor]) -> Tensor:
        stacked = torch.stack([row.view(S, N, *row.shape[1:]) for row in rows], 1)
        if len(rows) == T:
            return stacked
        return torch.cat([stacked, stacked.new_zeros(S, T - len(rows), *stacked.shape[2:])], 1)

    truncated = stack([step.truncated for step in steps])
    return Rollout(
        stack(observations[:-1]),
        observations[-1].view(S, N, -1),
        stack([step.final for step in steps]) if bool(truncated.any()) else None,
        stack(actions),
        gumbel,
        stack([step.reward for step in steps]),
        stack([step.terminated for step in steps]),
        truncated,
        stack(valid),
    )


@torch.no_grad()
def collect(
    lanes: Lanes,
    policy: Policy,
    observation: Tensor,
    gumbel: Tensor,
    alive: Tensor | None = None,
) -> tuple[Rollout, Tensor]:
    """Act for T steps in all lanes.

    Args:
        lanes: L = S x N lanes, seed by seed.
        policy: logits of observations; a shift by their normaliser does not change the argmax.
        observation: ``[L, F]`` to start from.
        gumbel: ``[S, T, N, D, A]`` noise, which sets T.
        alive: ``[L]`` bool for whole episodes: a lane counts up to the end of its episode, and the
            collection ends early where none is left; None: every step counts.

    Returns:
        The rollout, and the observation ``[L, F]`` to go on from.
    """
    S, T, N = gumbel.shape[:3]
    observations, actions, steps, valid = [observation], [], [], []
    everything = torch.ones(S * N, dtype=torch.bool, device=observation.device)
    for noise in gumbel.unbind(1):
        action = (policy(observation.view(S, N, -1)) + noise).argmax(-1)
        step = lanes.step(action.view(S * N))
        observation = step.observation
        counts = everything if step.valid is None else step.valid
        if alive is not None:
            counts = alive
            alive = alive & ~(step.terminated | step.truncated)
        observations.append(observation)
        actions.append(action.view(S * N, -1))
        steps.append(step)
        valid.append(counts)
        if alive is not None and not bool(alive.any()):
            break
    rollout = _assemble(observations, actions, gumbel, steps, valid, (S, T, N))
    return rollout, observation


class Episodes:
    """Returns and lengths of finished episodes, from rollouts, kept over their borders.

    Args:
        seeds: S.
        lanes: N.
        window: how many last episodes the means are over.
    """

    def __init__(self, seeds: int, lanes: int, window: int = 100) -> None:
        self.window = window
        self.carry = np.zeros((2, seeds, lanes))
        self.recent: list[list[tuple[float, int]]] = [[] for _ in range(seeds)]
        self.count = [0] * seeds

    def add(self, rollout: Rollout, whole: bool) -> None:
        """Fold in a rollout; ``whole`` episodes start anew with each."""
        if whole:
            self.carry[:] = 0.0
        valid = rollout.valid.transpose(1, 2).cpu().numpy()
        done = (rollout.terminated | rollout.truncated).transpose(1, 2).cpu().numpy() & valid
        reward = rollout.reward.transpose(1, 2).cpu().double().numpy() * valid
        sums = np.stack([reward, valid.astype(np.float64)]).cumsum(-1) + self.carry[..., None]
        seed, lane, time = done.nonzero()
        at_end = sums[:, seed, lane, time]
        fresh = np.ones(len(seed), dtype=bool)
        fresh[1:] = (seed[1:] != seed[:-1]) | (lane[1:] != lane[:-1])
        before = np.where(fresh, 0.0, np.roll(at_end, 1, axis=1))
        self._push(seed, time, lane, at_end - before)
        self.carry = sums[..., -1]
        last = np.append(fresh[1:], True) if len(seed) else fresh
        self.carry[:, seed[last], lane[last]] -= at_end[:, last]

    def _push(
        self,
        seed: NDArray[np.int64],
        time: NDArray[np.int64],
        lane: NDArray[np.int64],
        episodes: NDArray[np.float64],
    ) -> None:
        for i in np.lexsort((lane, time, seed)):
            recent = self.recent[seed[i]]
            recent.append((float(episodes[0, i]), int(episodes[1, i])))
            self.count[seed[i]] += 1
        for recent in self.recent:
            del recent[: -self.window]

    def means(self, seed: int) -> tuple[float, float]:
        """(mean return, mean length in steps) of a seed's last episodes; NaN before the first."""
        if not self.recent[seed]:
            return float("nan"), float("nan")
        returns, lengths = zip(*self.recent[seed], strict=True)
        return sum(returns) / len(returns), sum(lengths) / len(lengths)
