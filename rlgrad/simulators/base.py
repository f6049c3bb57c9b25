"""What torch-native batched environments share: time limit, same-step autoreset, seeding."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import Space
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from rlgrad.streams import Purpose, Streams, derive

BLOCK = 64  # steps of reset noise drawn at a time


class TorchVectorEnv(VectorEnv[Tensor, Tensor, Tensor], ABC):
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
    noise_per_reset: ClassVar[int]
    """Uniform numbers that ``initial`` takes per lane."""

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
        self.num_envs, self.device, self.dtype = num_envs, torch.device(device), dtype
        self.max_episode_steps = max_episode_steps
        self._limit = 1 << 62 if max_episode_steps is None else max_episode_steps
        self._on_cpu = self.device.type == "cpu"
        self.xp: Any = np if self._on_cpu else torch
        self.single_observation_space, self.single_action_space = self.spaces()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._state: Any = None
        self._step, self._block = 0, -1
        self._elapsed = self._native(torch.zeros(num_envs, dtype=torch.int64, device=self.device))

    def _native(self, x: Tensor) -> Any:
        """The same memory as an array of the library that does the arithmetic.

        On the CPU that is numpy: small batches cost dispatch, and numpy has less of it.
        """
        return x.numpy() if self._on_cpu else x

    @property
    def state(self) -> Tensor | None:
        """``[lanes, ...]``, sharing memory with the simulator; None before the first reset."""
        return None if self._state is None else torch.as_tensor(self._state)

    @state.setter
    def state(self, state: Tensor) -> None:
        self._state = self._native(state)

    @property
    def elapsed(self) -> Tensor:
        """Steps of each lane's episode so far ``[lanes]``."""
        return torch.as_tensor(self._elapsed)

    @abstractmethod
    def spaces(self) -> tuple[Space[Any], Space[Any]]:
        """Observation and action space of one lane."""

    @abstractmethod
    def initial(self, noise: Tensor) -> Tensor:
        """New episodes' states ``[n, ...]`` from numbers in (0, 1) ``[n, noise_per_reset]``."""

    @abstractmethod
    def transition(self, xp: Any, state: Any, action: Any) -> tuple[Any, Any, Any]:
        """(next state, reward ``[lanes]``, terminated ``[lanes]``) of one step; pure.

        Args:
            xp: ``numpy`` (on the CPU) or ``torch``, whose arrays the others are.
            state: ``[lanes, ...]``.
            action: ``[lanes]`` integers.
        """

    def observe(self, xp: Any, state: Any) -> Any:
        """Observations ``[lanes, ...]`` of states; the state itself unless a leaf says other."""
        return state

    def dynamics(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(next state, reward, terminated) of any states and actions, as tensors."""
        arrays = self.transition(self.xp, self._native(state), self._native(action))
        return tuple(torch.as_tensor(each) for each in arrays)  # type: ignore[return-value]

    def _start(self) -> Any:
        """Initial states for this step: a function of each lane's seed and of steps since then.

        They are made for many steps at a time, used in the lanes whose episode ends, or in all.
        """
        block, row = divmod(self._step, BLOCK)
        if block != self._block:
            self._block = block
            count = BLOCK * self.noise_per_reset
            numbers = self._streams.uniform(Purpose.RESET, block, 1, count).to(self.dtype)
            rows = numbers.view(self.num_envs, BLOCK, -1).transpose(0, 1)
            starts = self.initial(rows.reshape(BLOCK * self.num_envs, -1))
            self._starts = self._native(starts.unflatten(0, (BLOCK, self.num_envs)))
        self._step += 1
        return self._starts[row]

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
            self._streams, self._step, self._block = Streams(seeds, self.device), 0, -1
        self._state = self.xp.asarray(self._start(), copy=True)
        self._elapsed = self.xp.zeros_like(self._elapsed)
        return torch.as_tensor(self.observe(self.xp, self._state)).clone(), {}

    @property
    def drawn(self) -> int:
        """How many steps' noise for new episodes was used since the lanes were seeded.

        Setting it takes that noise up elsewhere; with ``restore`` a whole simulator goes on.
        """
        return self._step

    @drawn.setter
    def drawn(self, steps: int) -> None:
        if self.state is None:
            raise RuntimeError("drawn set before reset; call reset(seed=...) first")
        self._step = steps

    def restore(self, state: Tensor, elapsed: Tensor) -> Tensor:
        """Put every lane into a state, and at a time, that ``state`` and ``elapsed`` once gave.

        From there the same actions give the same steps, bit for bit, to each episode's end; what
        starts then takes the noise that is next.

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
        self._state = self._native(state.to(self.device, self.dtype, copy=True))
        self._elapsed = self._native(elapsed.to(self.device, torch.int64, copy=True))
        return torch.as_tensor(self.observe(self.xp, self._state)).clone()

    def step(self, actions: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """One step in every lane; lanes whose episode ends start the next one at once.

        Args:
            actions: ``[lanes]`` int64 on the environment's device (other arrays are converted).
        """
        actions = torch.as_tensor(actions, device=self.device)
        outputs = [torch.as_tensor(each) for each in self.advance(self._native(actions))]
        observation, final, reward, terminated, truncated, done = outputs
        info = {"final_obs": final.clone(), "_final_obs": done}
        return observation.clone(), reward, terminated, truncated, info

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
        xp, start = self.xp, self._start()
        after, reward, terminated = self.transition(xp, self._state, action)
        elapsed = self._elapsed + 1
        truncated = elapsed >= self._limit
        done = terminated | truncated
        final = self.observe(xp, after)
        # Most steps end no episode; asking is free on the CPU and a synchronisation on a GPU.
        if self._on_cpu and not done.any():
            self._state, self._elapsed = after, elapsed
            return final, final, reward, terminated, truncated, done
        self._state = xp.where(done.reshape(-1, *[1] * (after.ndim - 1)), start, after)
        self._elapsed = xp.where(done, 0, elapsed)
        return self.observe(xp, self._state), final, reward, terminated, truncated, done
