"""Fresh data of a frozen policy, gathered by the engine's own ``collect``.

The unit of measuring is the *estimate*: what one lane of one rollout adds to an update. Lanes are
independent; estimates of the same lane are not, so every interval is taken over lanes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from rlgrad.lab.freeze import Frozen
from rlgrad.lab.process import LONGEST, evenly
from rlgrad.lanes import Lanes
from rlgrad.make import is_simulated, make_training, time_limit
from rlgrad.rollout import Rollout, collect
from rlgrad.streams import Purpose, Streams, derive

SIMULATED, STEPPED = 256, 64  # lanes of a simulator, and of an environment that steps one by one
LEAST = 32  # independent lanes; with fewer, intervals mean nothing
BLOCK = 512  # lanes of whole episodes at a time


@dataclass(frozen=True)
class Sample:
    """Estimates side by side: a rollout of n columns."""

    rollout: Rollout
    """``[1, T, n, ...]``; N neighbouring columns are of different lanes."""
    lane: Int[Tensor, " n"]
    """Which lane a column is of."""
    shares: tuple[float, ...] | None = None
    """Chances that a column is of its lane's first, second, ... rollout; None: episodes."""

    @property
    def lanes(self) -> int:
        """How many independent lanes there are."""
        return int(self.lane.max()) + 1


def mapped(rollout: Rollout, change: Callable[[Tensor], Tensor], last: Tensor) -> Rollout:
    """A rollout whose ``[S, T, N, ...]`` tensors are changed, with another ``last``."""
    rows = rollout._replace(last=rollout.reward)
    changed = Rollout(*(None if x is None else change(x) for x in rows))  # type: ignore[arg-type]
    return changed._replace(last=last)


def chosen(rollout: Rollout, columns: Tensor) -> Rollout:
    """Some columns of a rollout, in that order."""
    return mapped(rollout, lambda x: x[:, :, columns], rollout.last[:, columns])


def joined(parts: Sequence[Rollout]) -> Rollout:
    """Rollouts side by side, the shorter ones padded by rows that do not count."""
    longest = max(part.valid.shape[1] for part in parts)

    def padded(x: Tensor) -> Tensor:
        missing = longest - x.shape[1]
        rows = x.new_zeros(1, missing, *x.shape[2:])
        return torch.cat([x, rows], 1) if missing else x

    if any(part.final is not None for part in parts):
        unknown = [torch.zeros_like(part.observation) for part in parts]
        parts = [
            part if part.final is not None else part._replace(final=none)
            for part, none in zip(parts, unknown, strict=True)
        ]
    parts = [mapped(part, padded, part.last) for part in parts]
    columns = zip(*(p._replace(last=p.reward) for p in parts), strict=True)
    fields = (None if each[0] is None else torch.cat(each, 2) for each in columns)
    last = torch.cat([part.last for part in parts], 1)
    return Rollout(*fields)._replace(last=last)  # type: ignore[arg-type]


def _gumbel(streams: Streams, number: int, lanes: int, frozen: Frozen, length: int) -> Tensor:
    """``[1, T, lanes, D, A]``."""
    D, A = frozen.learner.shape
    noise = streams.exponential(Purpose.ACTION, number, lanes, length * D * A)
    return -noise.view(1, lanes, length, D, A).transpose(1, 2).contiguous().log()


def _made(frozen: Frozen, lanes: int) -> Lanes:
    return Lanes(make_training(frozen.env, lanes, frozen.config.max_episode_steps))


def gather(frozen: Frozen, states: int, seed: int, mean_length: float | None = None) -> Sample:
    """Fresh estimates with about ``states`` visited states.

    Args:
        frozen: policy.
        states: that the policy acts in; rounded up to whole estimates of all lanes.
        seed: of all noise.
        mean_length: of an episode, in env steps, where it is known already: then the number of
            episodes does not depend on the lengths found here.
    """
    if frozen.whole:
        return _episodes(frozen, states, seed, mean_length)
    return _stretches(frozen, states, seed)


def _stretches(frozen: Frozen, states: int, seed: int) -> Sample:
    """R rollouts in a row of each lane, from a random one on, as training goes on and on.

    A lane that starts at a reset says more of the beginnings of episodes than training sees, so
    its first rollouts, a random number of them, are not used.
    """
    T, N = frozen.length, frozen.config.num_envs
    most = SIMULATED if is_simulated(frozen.env) else STEPPED
    wanted = max(LEAST, min(most, states // T))
    L = -(-wanted // N) * N
    R = max(1, round(states / (L * T)))
    limit = time_limit(frozen.env.id, frozen.config.max_episode_steps) or LONGEST
    spread = -(-min(limit, LONGEST) // T)
    rng = np.random.default_rng(derive(seed, Purpose.MEASURE))
    first = torch.from_numpy(rng.integers(0, spread + 1, L))
    streams, lanes, act = Streams([seed]), _made(frozen, L), frozen.learner.actor()
    parts, keys = [], []
    try:
        observation = lanes.reset([derive(seed, Purpose.LANE_SEED, lane) for lane in range(L)])
        for c in range(int(first.max()) + R):
            gumbel = _gumbel(streams, c, L, frozen, T)
            rollout, observation = collect(lanes, act, observation, gumbel)
            used = torch.nonzero((first <= c) & (c < first + R)).squeeze(1)
            if len(used):
                parts.append(chosen(rollout, used))
                keys.append((c - first[used]) * L + used)
    finally:
        lanes.close()
    key = torch.cat(keys)
    order = key.argsort()
    return Sample(chosen(joined(parts), order), key[order] % L, evenly(spread, R))


def _episodes(frozen: Frozen, states: int, seed: int, mean_length: float | None) -> Sample:
    """One whole episode of each lane."""
    N = frozen.config.num_envs
    parts: list[Rollout] = []
    done, visited, wanted = 0, 0, LEAST
    if mean_length is not None:
        wanted = -(-max(LEAST, round(states / mean_length)) // N) * N
    while done < wanted or (mean_length is None and visited < states):
        count = min(BLOCK, wanted - done) if mean_length is not None else -(-64 // N) * N
        part = _block(frozen, seed, done, count)
        longest = int(part.valid.any(2).sum())
        parts.append(mapped(part, operator.itemgetter((slice(None), slice(longest))), part.last))
        done, visited = done + count, visited + int(part.valid.sum())
    return Sample(joined(parts), torch.arange(done))


def _block(frozen: Frozen, seed: int, start: int, count: int) -> Rollout:
    """Episodes ``start`` to ``start + count``, one per lane."""
    lanes = _made(frozen, count)
    alive: Any = np.ones(count, dtype=bool)
    try:
        own = [derive(seed, Purpose.LANE_SEED, start + lane) for lane in range(count)]
        noise = Streams([derive(seed, Purpose.MEASURE, start)])
        gumbel = _gumbel(noise, 0, count, frozen, frozen.length)
        return collect(lanes, frozen.learner.actor(), lanes.reset(own), gumbel, alive)[0]
    finally:
        lanes.close()


def split(sample: Sample, share: float) -> tuple[Sample, Sample]:
    """Two samples of different lanes, the second with ``share`` of them."""
    lanes = sample.lanes
    border = lanes - max(1, round(share * lanes))

    def part(mask: Bool[Tensor, " n"], shift: int) -> Sample:
        columns = mask.nonzero().squeeze(1)
        return Sample(chosen(sample.rollout, columns), sample.lane[columns] - shift, sample.shares)

    return part(sample.lane < border, 0), part(sample.lane >= border, border)
