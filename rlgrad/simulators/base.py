"""What torch-native batched environments share: time limit, same-step autoreset, seeding."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from rlgrad.simulators.arrays import by_component, rows
from rlgrad.simulators.dynamics import Dynamics
from rlgrad.simulators.starts import Starts
from rlgrad.streams import Purpose, derive


class TorchVectorEnv(Dynamics, VectorEnv[Tensor, Tensor, Tensor]):
    """A batch of environments in tensors on one device; ``gymnasium.vector.VectorEnv``'s interface.

    Actions, observations, rewards and flags are tensors. Autoreset is SAME_STEP: where an episode
    ends, the observation is the next episode's and ``info["final_obs"]`` holds the true last ones
    (a full array; ``info["_final_obs"]`` marks the lanes whose episode ended).

    Args:
        num_envs: lanes.
        max_episode_steps: episodes are truncated here; None: never.
        device: where all tensors live.
        dtype: of state, observations and rewards.
        render_mode: None only; render one environment by ``gymnasium.make``.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "autoreset_mode": AutoresetMode.SAME_STEP,
        "render_modes": [],
    }

    def __init__(
        self,
        num_envs: int = 1,
        *,
        max_episode_steps: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        render_mode: str | None = None,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"got num_envs {num_envs}; expected at least 1")
        if render_mode is not None:
            raise ValueError(
                f"got render_mode {render_mode!r}; a batched simulator does not render: "
                "use gymnasium.make for one environment"
            )
        self.num_envs = num_envs
        Dynamics.__init__(self, device, dtype)
        self.max_episode_steps = max_episode_steps
        self.single_observation_space, self.single_action_space = self.spaces()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._state: Any = None
        self._elapsed = self._native(torch.zeros(num_envs, dtype=torch.int64, device=self.device))
        self._never = np.zeros(num_envs, dtype=bool)
        self._limit = 1 << 62 if max_episode_steps is None else max_episode_steps
        self._free = 0  # steps for which no lane can meet its limit
        self._one, self._most = np.array(1), np.array(self._limit)

    @property
    def state(self) -> Tensor | None:
        """``[lanes, ...]``, sharing memory with the simulator; None before the first reset."""
        return None if self._state is None else torch.as_tensor(self._state)

    @state.setter
    def state(self, state: Tensor) -> None:
        self._state = self._columns(self._native(state))

    @property
    def elapsed(self) -> Tensor:
        """Steps of each lane's episode so far ``[lanes]``."""
        return torch.as_tensor(self._elapsed)

    def _initial(self, numbers: Tensor) -> Tensor:
        return self.initial(numbers.to(self.dtype))

    def reset(
        self,
        *,
        seed: Any = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Start new episodes in all lanes.

        Args:
            seed: an int, from which every lane's seed is derived; or one seed per lane; None goes
                on with the noise that is next, or with fresh entropy the first time.
            options: none are known.
        """
        if seed is None and self.state is None:
            seed = int.from_bytes(os.urandom(7))
        if seed is not None:
            if isinstance(seed, Sequence):
                seeds = [int(each) for each in seed]
            else:
                lanes = range(self.num_envs)
                seeds = [derive(int(seed), Purpose.LANE_SEED, lane) for lane in lanes]
            if len(seeds) != self.num_envs:
                raise ValueError(f"got {len(seeds)} seeds for {self.num_envs} lanes")
            self.starts = Starts(
                seeds, self.device, self._initial, self.noise_per_reset, self._native
            )
        self._state = self._columns(self._next_starts())
        self._elapsed, self._free = self.xp.zeros_like(self._elapsed), 0
        return self._observed(), {}

    def _next_starts(self) -> Any:
        """Of all lanes."""
        if self._on_cpu:
            return self.starts.take(np.arange(self.num_envs))
        return self.starts.take_where(torch.ones_like(self.elapsed, dtype=torch.bool))

    def _observed(self) -> Tensor:
        """What the lanes see, in memory of its own."""
        seen = torch.as_tensor(self.observe(self.xp, self._state))
        return seen.clone(memory_format=torch.contiguous_format)

    def restore(self, state: Tensor, elapsed: Tensor) -> Tensor:
        """Put every lane into a state, and at a time, that ``state`` and ``elapsed`` once gave.

        From there the same actions give the same steps, bit for bit, to each episode's end; what
        starts then is what ``starts.used`` says comes next.

        Args:
            state: ``[lanes, ...]``.
            elapsed: ``[lanes]`` steps of the episode so far.

        Returns:
            Observations ``[lanes, ...]``.

        Raises:
            RuntimeError: before the first reset.
            ValueError: for another number of lanes, or states of another shape.
        """
        if self.state is None:
            raise RuntimeError("restore before reset; call reset(seed=...) first")
        shape, lanes = list(self.state.shape), [self.num_envs]
        if [*state.shape] != shape or [*elapsed.shape] != lanes:
            came = f"{list(state.shape)} and {list(elapsed.shape)}"
            raise ValueError(f"got state and elapsed of shapes {came}; expected {shape}, {lanes}")
        self._state = self._columns(self._native(state.to(self.device, self.dtype)))
        self._elapsed = self._native(elapsed.to(self.device, torch.int64, copy=True))
        self._free = 0
        return self._observed()

    def step(self, actions: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """One step in every lane; lanes whose episode ends start the next one at once.

        Args:
            actions: ``[lanes]`` int64 on the environment's device (other arrays are converted).
        """
        actions = torch.as_tensor(actions, device=self.device)
        observation, final, reward, terminated, truncated, done = (
            torch.as_tensor(each).clone() for each in self.advance(self._native(actions))
        )
        return observation, reward, terminated, truncated, {"final_obs": final, "_final_obs": done}

    def advance(self, action: Any) -> tuple[Any, Any, Any, Any, Any, Any]:
        """A step in arrays of ``xp``, for callers that only read them: they may share memory.

        Args:
            action: ``[lanes]`` integers.

        Returns:
            Observation to act on, true last observation, reward, terminated, truncated, and which
            lanes' episodes ended.
        """
        if self._state is None:
            raise RuntimeError("step before reset; call reset(seed=...) first")
        if not self._on_cpu:
            table, cursor = self.starts.serve()
            seen: Any = self.follow(self._state, self._elapsed, table, cursor, action)
            self._state, self._elapsed = seen[6:]
            return seen[:6]
        after, reward, terminated = self.transition(self.xp, self._state, action)
        if isinstance(reward, float):
            reward = self._full(reward, self.num_envs)
        final = self.observe(self.xp, after)
        self._state = after
        if not final.flags.c_contiguous:
            final = rows(final)
        self._elapsed += self._one
        truncated, done = self._never, terminated
        self._free -= 1
        if self._free <= 0:
            truncated = self._elapsed >= self._most
            done = terminated | truncated
            self._free = self._limit - int(self._elapsed.max())
        if 1 not in done.tobytes():  # the quickest way to ask; most steps of few lanes end here
            return final, final, reward, terminated, truncated, done
        (lanes,) = done.nonzero()
        start, observation = self.starts.take(lanes), final.copy()
        self._state = after.copy("K")
        self._state[lanes], observation[lanes] = start, self.observe(np, start)
        self._elapsed[lanes] = 0
        return observation, final, reward, terminated, truncated, done

    def follow(
        self, state: Tensor, elapsed: Tensor, table: Tensor, cursor: Tensor, action: Tensor
    ) -> tuple[Tensor, ...]:
        """A step in tensors, without asking the device whether an episode ended.

        Args:
            state: ``[lanes, ...]``.
            elapsed: ``[lanes]``.
            table: of starts.
            cursor: ``[lanes]``, rows of the table that come next; moved on where one is taken.
            action: ``[lanes]`` integers.

        Returns:
            What ``advance`` returns, then the next state and elapsed.
        """
        after, reward, terminated = self.transition(torch, state, action)
        if isinstance(reward, float):
            reward = self._full(reward, self.num_envs)
        final, elapsed = self.observe(torch, after), elapsed + 1
        truncated = elapsed >= self._limit
        done = terminated | truncated
        wide = done.view(-1, *[1] * (after.ndim - 1))
        after = by_component(torch.where(wide, table[cursor], after))
        cursor += done * self.num_envs
        seen = self.observe(torch, after)
        return seen, final, reward, terminated, truncated, done, after, elapsed * ~done
