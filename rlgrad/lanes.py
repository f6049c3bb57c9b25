"""Any vector environment as lanes with one meaning of a step, whatever its autoreset mode.

The three modes of Gymnasium's vector environments cannot be converted by a wrapper; here each is
read exactly. A ``Step`` always holds the true next observation of the transition (before a reset),
and says which rows are transitions at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray

from rlgrad.actions import Actions
from rlgrad.atari import AtariLanes
from rlgrad.chunked import Advance, ChunkedVectorEnv
from rlgrad.errors import UsageError
from rlgrad.images import is_bytes
from rlgrad.infos import Taken
from rlgrad.masking import MaskedBox
from rlgrad.pooled import PooledVectorEnv
from rlgrad.rows import LaneError
from rlgrad.simulators.base import TorchVectorEnv


class Step(NamedTuple):
    """One step of L lanes, in numpy arrays, or tensors where a simulator lives on a GPU.

    They are for reading only: a simulator's may share memory with its state.
    """

    observation: Any
    """``[L, F]`` float32, or uint8 where the environment's type is that or bool, what the next
    action is for; with a mask of it ``[L, F + D x A]``."""
    final: Any
    """``[L, F]``, the true next observation of this transition; differs where an episode ended."""
    reward: Any
    """``[L]`` float32."""
    terminated: Any
    """``[L]`` bool."""
    truncated: Any
    """``[L]`` bool."""
    valid: Any
    """``[L]`` bool, False where the row is a mere reset; None: all rows are transitions."""


class Lanes:
    """A vector environment of L lanes with flattened observations and actions from 0.

    Args:
        env: Box observations and Discrete, MultiDiscrete or MultiBinary actions per lane (``make``
            flattens other observations).
        seeds: that the lanes are of, as many for each, for messages; empty: not known.
        role: of the lanes, for messages, such as "the evaluation of "; empty: training.
    """

    def __init__(
        self, env: VectorEnv[Any, Any, Any], seeds: Sequence[int] = (), role: str = ""
    ) -> None:
        self.env, self.seeds, self.role = env, list(seeds), role
        self.mode = AutoresetMode(env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        space, actions = env.single_observation_space, env.single_action_space
        supported = isinstance(actions, (Discrete, MultiDiscrete, MultiBinary))
        if not isinstance(space, Box) or not supported:
            raise UsageError(
                f"got {space} and {actions}; expected Box and Discrete, MultiDiscrete or "
                "MultiBinary: use rlgrad.make"
            )
        self.actions, self.width = Actions(actions), int(np.prod(space.shape))
        self.masked = isinstance(space, MaskedBox)
        """Whether observations carry action masks: D x A columns behind the features."""
        self.space = space.plain if isinstance(space, MaskedBox) else space
        """Of one observation, without its mask."""
        self.simulator = env if isinstance(env, TorchVectorEnv) else None
        self.chunked = env if isinstance(env, ChunkedVectorEnv) else None
        # As one byte a number, where that is what they are: images fill memory.
        small = is_bytes(space) and not isinstance(env, TorchVectorEnv)
        self.dtype = "uint8" if small else "float32"
        """Of observations."""
        self.xp: Any = np if self.simulator is None else self.simulator.xp
        """The library of all arrays: numpy, or torch for a simulator on a GPU."""
        self._ended: NDArray[np.bool_] | None = None

    @property
    def features(self) -> int:
        """F, numbers of an observation without its mask."""
        return self.width - self.masked * self.actions.outputs

    @property
    def count(self) -> int:
        """L."""
        return self.env.num_envs

    def cpu_seconds(self) -> float:
        """That processes beside this one have spent on the environments."""
        return 0.0 if self.chunked is None else self.chunked.cpu_seconds()

    def _features(self, observation: Any) -> NDArray[Any]:
        x = np.asarray(observation)
        return x.astype(self.dtype, copy=False).reshape(len(x), -1)

    def reset(self, seeds: Sequence[int]) -> Any:
        """Start new episodes in all lanes, each from its own seed: ``[L, F]``.

        Batched classes of other packages take one seed for all lanes; they get the first.
        """
        batched = SyncVectorEnv, AsyncVectorEnv, PooledVectorEnv, AtariLanes
        many = self.simulator or self.chunked or isinstance(self.env, batched)
        seed: Any = list(seeds) if many else seeds[0] & 0x7FFFFFFF
        observation, _ = self._played(self.env.reset, seed=seed)
        self._ended = None
        return observation.flatten(1) if self.xp is torch else self._features(observation)

    def step(self, action: Any) -> Step:
        """Act in all lanes.

        Args:
            action: ``[L, D]`` int64, counted from 0.
        """
        if self.simulator is not None:  # SAME_STEP, and the final observations of all lanes
            x, final, reward, terminated, truncated, _ = self.simulator.advance(
                self.actions.outside(action)
            )
            if x.ndim > 2:
                x, final = x.reshape(len(x), -1), final.reshape(len(x), -1)
            return Step(x, final, reward, terminated, truncated, None)
        outside = self.actions.outside(action)
        if self.chunked is not None:
            return self._step(self._played(self.chunked.advance, outside))
        observation, reward, terminated, truncated, info = self.env.step(outside)
        x, reward = self._features(observation), np.asarray(reward, dtype=np.float32)
        terminated, truncated = np.asarray(terminated, bool), np.asarray(truncated, bool)
        if self.mode is AutoresetMode.SAME_STEP:
            final = self._same_step_final(x, info, terminated | truncated)
            return Step(x, final, reward, terminated, truncated, None)
        if self.mode is AutoresetMode.NEXT_STEP:
            valid = None if self._ended is None else ~self._ended
            self._ended = terminated | truncated
            return Step(x, x, reward, terminated, truncated, valid)
        done = terminated | truncated
        if not done.any():
            return Step(x, x, reward, terminated, truncated, None)
        fresh, _ = self.env.reset(options={"reset_mask": done})
        return Step(
            np.where(done[:, None], self._features(fresh), x),
            x,
            reward,
            terminated,
            truncated,
            None,
        )

    def begin(self, action: Any, lanes: NDArray[np.int64]) -> None:
        """Set some lanes of a chunked environment going; see ``ChunkedVectorEnv.begin``.

        Args:
            action: ``[n, D]`` int64, counted from 0.
            lanes: ``[n]`` their numbers, ascending.
        """
        assert self.chunked is not None
        self._played(self.chunked.begin, self.actions.outside(action), lanes)

    def finish(self, lanes: NDArray[np.int64]) -> Step:
        """What came of the lanes that were begun first among those still under way."""
        assert self.chunked is not None
        return self._step(self._played(self.chunked.finish, lanes))

    def _played(self, play: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What the environment answers; an error of lanes is put into the words of their seeds."""
        try:
            return play(*args, **kwargs)
        except LaneError as error:
            error.seeds, error.role = self.seeds, self.role
            error.each = self.count // max(len(self.seeds), 1)
            raise

    def _step(self, advance: Advance) -> Step:
        """A step of Gymnasium's environments as this package steps them."""
        observation, last, reward, terminated, truncated = advance
        x, reward = self._features(observation), reward.astype(np.float32)
        if last is None:
            return Step(x, x, reward, terminated, truncated, None)
        done = terminated | truncated
        final = np.where(done[:, None], self._features(last), x)
        return Step(x, final, reward, terminated, truncated, None)

    def _same_step_final(
        self, x: NDArray[Any], info: dict[str, Any], done: NDArray[np.bool_]
    ) -> NDArray[Any]:
        """True last observations where episodes ended, ``x`` elsewhere.

        The flags say where: Atari's own class gives ``final_obs`` without ``_final_obs``.
        """
        last = info.get("final_obs")
        if last is None or not done.any():
            return x
        if isinstance(last, np.ndarray) and last.dtype != np.object_:
            return np.where(done[:, None], self._features(last), x)
        final = x.copy()
        for lane in np.flatnonzero(done):
            final[lane] = np.asarray(last[lane], dtype=self.dtype).reshape(-1)
        return final

    def check_infos(self, vec: str) -> None:
        """Refuse to count infos where there are none.

        Args:
            vec: what steps the environments, for the message.

        Raises:
            UsageError: with what to do instead.
        """
        if self.chunked is None:
            self.close()
            raise UsageError(
                f"got --log-info, but what steps the environments, {vec}, gives no infos; use "
                "--vec sync, which is Gymnasium's own"
            )

    def infos(self) -> list[Taken]:
        """What the infos of each lane gave since the last look; see ``Notes``.

        Raises:
            LaneError: where an environment was lost.
        """
        assert self.chunked is not None
        return list(self._played(self.chunked.call, "take_infos"))

    def close(self) -> None:
        """Release the environment."""
        self.env.close()
