"""The only code that steps an environment for training; ``overlapped`` does so in two halves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from rlgrad.engine import WINDOW
from rlgrad.lanes import Lanes, Step


class Rollout(NamedTuple):
    """T steps of N lanes of S seeds; rows that are no transitions are marked, not removed."""

    observation: Tensor
    """``[S, T, N, F]`` float32, or uint8, see ``Lanes.dtype``; where actions are masked
    ``[S, T, N, F + D x A]``, 1: allowed."""
    last: Tensor
    """``[S, N, F]``, the observation after the last step."""
    final: Tensor | None
    """``[S, T, N, F]``, the true next observations; None: it is known that none was truncated."""
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


Policy = Callable[[Any], Any]
"""Observations ``[S, N, F]`` -> logits ``[S, N, D, A]``, arrays of the lanes' library."""


class Store:
    """Rows of T steps, written one by one; rows that are never written are zero and do not count.

    Args:
        xp: numpy or torch.
        gumbel: ``[S, T, N, D, A]``, the noise that draws the actions.
        F: features.
        kind: of observations, see ``Lanes.dtype``.
    """

    def __init__(self, xp: Any, gumbel: Float[Tensor, "S T N D A"], F: int, kind: str) -> None:
        S, T, N, D, _ = gumbel.shape
        self.xp, self.gumbel = xp, gumbel
        where = {"device": gumbel.device} if xp is torch else {}
        shape = T, S * N  # time first, so that a step is written in one piece
        self.observation = xp.zeros((*shape, F), dtype=getattr(xp, kind), **where)
        self.final = xp.zeros((*shape, F), dtype=getattr(xp, kind), **where)
        self.action = xp.zeros((*shape, D), dtype=xp.int64, **where)
        self.reward = xp.zeros(shape, dtype=xp.float32, **where)
        self.terminated, self.truncated, self.valid = xp.zeros((3, *shape), dtype=xp.bool, **where)

    def write(self, at: Any, observation: Any, action: Any, step: Step, counts: Any) -> None:
        """What was seen and done at a time, what came of it ``[L, ...]``, which lanes count.

        ``at`` is the time, or (time, lanes) where some lanes alone are written.
        """
        self.observation[at], self.action[at] = observation, action
        self.final[at], self.reward[at] = step.final, step.reward
        self.terminated[at], self.truncated[at] = step.terminated, step.truncated
        self.valid[at] = counts

    def _seed_first(self, x: Any) -> Tensor:
        """Rows ``[T, L, ...]`` as ``[S, T, N, ...]`` on the noise's device."""
        S, T, N = self.gumbel.shape[:3]
        rows = x.reshape(T, S, N, *x.shape[2:]).swapaxes(0, 1)
        if self.xp is torch:
            return rows.contiguous()
        return torch.from_numpy(np.ascontiguousarray(rows)).to(self.gumbel.device)

    def rollout(self, observation: Any) -> Rollout:
        """All rows, and the observation ``[L, F]`` after the last."""
        S, _, N = self.gumbel.shape[:3]
        return Rollout(
            self._seed_first(self.observation),
            torch.as_tensor(observation, device=self.gumbel.device).reshape(S, N, -1).clone(),
            # On a GPU without asking: a question would wait for all that was asked before.
            self._seed_first(self.final) if self.xp is torch or self.truncated.any() else None,
            self._seed_first(self.action),
            self.gumbel,
            self._seed_first(self.reward),
            self._seed_first(self.terminated),
            self._seed_first(self.truncated),
            self._seed_first(self.valid),
        )


@torch.no_grad()
def collect(
    lanes: Lanes,
    policy: Policy,
    observation: Any,
    gumbel: Float[Tensor, "S T N D A"],
    alive: Any = None,
) -> tuple[Rollout, Any]:
    """Act for T steps in all lanes.

    Args:
        lanes: L = S x N lanes, seed by seed.
        policy: logits of observations; a shift by their normaliser does not change the argmax.
        observation: ``[L, F]`` to start from, an array of the lanes' library.
        gumbel: ``[S, T, N, D, A]`` noise, which sets T and the rollout's device.
        alive: ``[L]`` bool for whole episodes: a lane counts up to the end of its episode, and the
            collection ends early where none is left; None: every step counts.

    Returns:
        The rollout, and the observation ``[L, F]`` to go on from.
    """
    S, T, N, D, _ = gumbel.shape
    xp, L = lanes.xp, S * N
    where = {"device": gumbel.device} if xp is torch else {}
    noise = (gumbel if xp is torch else gumbel.cpu().numpy()).swapaxes(0, 1)
    store = Store(xp, gumbel, lanes.width, lanes.dtype)
    everything = xp.ones(L, dtype=xp.bool, **where)
    for t in range(T):
        choice = policy(observation.reshape(S, N, -1)) + noise[t]
        action = choice.argmax(-1).reshape(L, D)
        step = lanes.step(action)
        counts = alive if alive is not None else everything if step.valid is None else step.valid
        store.write(t, observation, action, step, counts)
        observation = step.observation
        if alive is not None:
            alive = alive & ~(step.terminated | step.truncated)
            if not alive.any():
                break
    return store.rollout(observation), observation


class Episodes:
    """Returns and lengths of finished episodes, from rollouts, kept over their borders.

    Args:
        seeds: S.
        lanes: N.
        window: how many last episodes the means are over.
    """

    def __init__(self, seeds: int, lanes: int, window: int = WINDOW) -> None:
        self.window = window
        self.carry = np.zeros((2, seeds, lanes))
        self.recent: list[list[tuple[float, int]]] = [[] for _ in range(seeds)]
        self.count = [0] * seeds

    def add(self, rollout: Rollout, whole: bool) -> None:
        """Fold in a rollout; ``whole`` episodes start anew with each."""
        if whole:
            self.carry[:] = 0.0
        valid, reward = rollout.valid.cpu().numpy(), rollout.reward.cpu().numpy()
        done = (rollout.terminated | rollout.truncated).cpu().numpy() & valid
        sums = np.empty((2, *reward.shape))
        np.multiply(reward, valid, out=sums[0])
        sums[1] = valid
        np.cumsum(sums, axis=2, out=sums)
        sums += self.carry[:, :, None]
        self.carry = sums[:, :, -1].copy()
        if not done.any():
            return
        seed, lane, time = done.swapaxes(1, 2).nonzero()
        at_end = sums[:, seed, time, lane]
        fresh = np.ones(len(seed), dtype=bool)
        fresh[1:] = (seed[1:] != seed[:-1]) | (lane[1:] != lane[:-1])
        before = np.where(fresh, 0.0, np.roll(at_end, 1, axis=1))
        last = np.append(fresh[1:], True)
        with np.errstate(invalid="ignore"):  # inf - inf, of a seed that its rewards have failed
            self._push(seed, time, lane, at_end - before)
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

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint, by name; the first axis is the seed."""
        recent = torch.zeros(len(self.recent), self.window, 2, dtype=torch.float64)
        for row, episodes in zip(recent, self.recent, strict=True):
            row[: len(episodes)] = torch.tensor(episodes, dtype=torch.float64).view(-1, 2)
        return {
            "episodes.carry": torch.tensor(self.carry.swapaxes(0, 1)),
            "episodes.recent": recent,
            "episodes.count": torch.tensor(self.count),
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what ``state`` gave.

        Raises:
            ValueError: for counts that no run reaches.
        """
        if not bool(((state["episodes.count"] >= 0) & (state["episodes.count"] < 1 << 53)).all()):
            raise ValueError("episodes.count is out of range")
        carry = state["episodes.carry"].numpy().swapaxes(0, 1)
        self.carry = np.array(carry).reshape(self.carry.shape)
        self.count = state["episodes.count"].reshape(len(self.count)).tolist()
        recent = state["episodes.recent"].reshape(len(self.count), self.window, 2).tolist()
        self.recent = [
            [(total, int(length)) for total, length in row[:count]]
            for row, count in zip(recent, self.count, strict=True)
        ]

    def means(self, seed: int) -> tuple[float, float]:
        """(mean return, mean length in steps) of a seed's last episodes; NaN before the first."""
        if not self.recent[seed]:
            return float("nan"), float("nan")
        returns, lengths = zip(*self.recent[seed], strict=True)
        return sum(returns) / len(returns), sum(lengths) / len(lengths)
