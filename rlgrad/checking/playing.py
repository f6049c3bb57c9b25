"""Plays of fixed actions, kept in numpy: what the rules about trajectories are read from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Dict, Space
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from rlgrad.checking.forms import Leaves, array, leaves

Bools = NDArray[np.bool_]


class Row(NamedTuple):
    """One vector step of L lanes."""

    observation: Leaves
    """Arrays ``[L, ...]``."""
    reward: NDArray[Any]
    """``[L]``."""
    terminated: Bools
    """``[L]``."""
    truncated: Bools
    """``[L]``."""
    final: dict[int, Leaves]
    """Last observations by lane, as ``info`` has them."""
    fresh: Leaves | None
    """Observations after a reset by mask; None where there was none."""

    @property
    def over(self) -> Bools:
        """Lanes whose flags say that the episode ended."""
        return self.terminated | self.truncated


class Play(NamedTuple):
    """A reset and the steps after it."""

    first: Leaves
    """Arrays ``[L, ...]``."""
    rows: list[Row]


class Ending(NamedTuple):
    """Where an episode of a lane ended."""

    time: int
    lane: int
    length: int
    """Transitions of the episode; 0: it began before the play's own reset could be seen."""
    terminated: bool
    truncated: bool
    final: Leaves | None
    start: Leaves | None
    """First observation of the next episode; None where the play ended before it."""


Hook = Callable[[str, Any], None]
"""Sees what ``reset`` (name "reset") and ``step`` (name "step 3") returned, as it came."""


def actions_of(env: VectorEnv[Any, Any, Any], steps: int, seed: int) -> list[Any]:
    """Random actions of all lanes, one batch per step."""
    space = batch_space(env.single_action_space, env.num_envs)
    space.seed(seed)
    return [space.sample() for _ in range(steps)]


def final_of(space: Space[Any], last: Any, lane: int) -> Leaves | None:
    """One lane's last observation out of ``info["final_obs"]``; None where it is missing."""
    if isinstance(space, Dict) and isinstance(last, dict):
        parts = [final_of(each, last.get(key), lane) for key, each in space.spaces.items()]
        return None if None in parts else [x for part in parts if part for x in part]
    if last is None or last[lane] is None:
        return None
    return [array(x) for x in leaves(space, last[lane])]


def play(
    env: VectorEnv[Any, Any, Any],
    seed: int,
    actions: list[Any],
    hook: Hook | None = None,
    spoil: Hook | None = None,
) -> Play:
    """Reset with a seed and act; in mode DISABLED lanes are reset by mask where they end.

    Args:
        env: to play with.
        seed: of the reset.
        actions: one batch per step.
        hook: called before anything is copied.
        spoil: called after everything is copied.
    """
    space = env.single_observation_space
    disabled = env.metadata.get("autoreset_mode") is AutoresetMode.DISABLED

    def seen(name: str, raw: Any) -> Leaves:
        if hook:
            hook(name, raw)
        return [array(x) for x in leaves(space, raw[0])]

    raw: Any = env.reset(seed=seed)
    first, rows = seen("reset", raw), []
    # Who gives tensors is given tensors.
    devices = [x.device for x in leaves(space, raw[0]) if isinstance(x, torch.Tensor)]
    if spoil:
        spoil("reset", raw)
    for t, action in enumerate(actions):
        raw = env.step(torch.as_tensor(action, device=devices[0]) if devices else action)
        name = f"step {t}"
        observation = seen(name, raw)
        reward, terminated, truncated = (array(x) for x in raw[1:4])
        ends = terminated.astype(bool), truncated.astype(bool)
        over = ends[0] | ends[1]
        last = raw[4].get("final_obs")
        lanes = [] if last is None else np.flatnonzero(over).tolist()
        found = {lane: final_of(space, last, lane) for lane in lanes}
        final = {lane: parts for lane, parts in found.items() if parts is not None}
        if spoil:
            spoil(name, raw)
        fresh = None
        if disabled and over.any():
            again = env.reset(options={"reset_mask": over.copy()})
            fresh = seen(f"reset by mask at step {t}", again)
        rows.append(Row(observation, reward, *ends, final, fresh))
    return Play(first, rows)


def equal(one: Leaves, other: Leaves) -> bool:
    """Bit for bit, NaN equal to NaN."""
    pairs = zip(one, other, strict=True)
    return all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in pairs)


def lane_of(parts: Leaves, lane: int) -> Leaves:
    """One lane's arrays."""
    return [np.asarray(x[lane]) for x in parts]


def difference(one: Play, other: Play) -> str:
    """Where two plays first differ; empty where they do not."""
    if not equal(one.first, other.first):
        return "the first observation"
    for t, (a, b) in enumerate(zip(one.rows, other.rows, strict=True)):
        named = [*zip(("reward", "terminated", "truncated"), a[1:4], b[1:4], strict=True)]
        for name, x, y in named:
            if not equal([x], [y]):
                return f"{name} of step {t}"
        if not equal(a.observation, b.observation):
            return f"the observation of step {t}"
        if a.final.keys() != b.final.keys() or not all(
            equal(a.final[lane], b.final[lane]) for lane in a.final
        ):
            return f"info['final_obs'] of step {t}"
        if (a.fresh is None) != (b.fresh is None) or not equal(a.fresh or [], b.fresh or []):
            return f"the reset after step {t}"
    return ""


def endings(game: Play, mode: AutoresetMode) -> Iterator[Ending]:
    """All ends of episodes of a play, read as its mode says."""
    lanes = len(game.rows[0].reward) if game.rows else 0
    length = np.zeros(lanes, dtype=int)
    idle = np.zeros(lanes, dtype=bool)  # rows that are mere resets
    for t, row in enumerate(game.rows):
        length += ~idle
        over = row.over & ~idle
        for lane in np.flatnonzero(over).tolist():
            seen, start = lane_of(row.observation, lane), None
            final: Leaves | None = seen
            if mode is AutoresetMode.SAME_STEP:
                final, start = row.final.get(lane), seen
            elif mode is AutoresetMode.DISABLED and row.fresh is not None:
                start = lane_of(row.fresh, lane)
            elif mode is AutoresetMode.NEXT_STEP and t + 1 < len(game.rows):
                start = lane_of(game.rows[t + 1].observation, lane)
            flags = bool(row.terminated[lane]), bool(row.truncated[lane])
            yield Ending(t, lane, int(length[lane]), *flags, final, start)
            length[lane] = 0
        idle = over if mode is AutoresetMode.NEXT_STEP else np.zeros(lanes, dtype=bool)
