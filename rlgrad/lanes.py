"""Any vector environment as lanes with one meaning of a step, whatever its autoreset mode.

The three modes of Gymnasium's vector environments cannot be converted by a wrapper; here each is
read exactly. A ``Step`` always holds the true next observation of the transition (before a reset),
and says which rows are transitions at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from torch import Tensor

from rlgrad.errors import UsageError
from rlgrad.simulators.base import TorchVectorEnv


class Step(NamedTuple):
    """One step of L lanes."""

    observation: Tensor
    """``[L, F]`` float32, what the next action is for."""
    final: Tensor
    """``[L, F]``, the true next observation of this transition; differs where an episode ended."""
    reward: Tensor
    """``[L]`` float32."""
    terminated: Tensor
    """``[L]`` bool."""
    truncated: Tensor
    """``[L]`` bool."""
    valid: Tensor | None
    """``[L]`` bool, False where the row is a mere reset; None: all rows are transitions."""


class Lanes:
    """A vector environment of L lanes with flattened observations and actions from 0.

    Args:
        env: Box observations and Discrete actions per lane (``make`` flattens others).
        device: where tensors go; the environment's own device if it has one.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], device: torch.device | str = "cpu") -> None:
        self.env, self.device = env, torch.device(device)
        self.mode = AutoresetMode(env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        space, actions = env.single_observation_space, env.single_action_space
        if not isinstance(space, Box) or not isinstance(actions, Discrete):
            raise UsageError(
                f"got {space} and {actions}; expected Box and Discrete: use rlgrad.make"
            )
        self.features = int(np.prod(space.shape))
        self.actions, self.start = int(actions.n), int(actions.start)
        self.tensors = isinstance(env, TorchVectorEnv)
        self._ended: Tensor | None = None

    @property
    def count(self) -> int:
        """L."""
        return self.env.num_envs

    def _features(self, observation: Any) -> Tensor:
        x = observation if self.tensors else torch.as_tensor(np.asarray(observation))
        return x.to(self.device, torch.float32).reshape(len(x), -1)

    def _flags(self, flags: Any) -> Tensor:
        return torch.as_tensor(flags, dtype=torch.bool, device=self.device)

    def reset(self, seeds: Sequence[int]) -> Tensor:
        """Start new episodes in all lanes, each from its own seed: ``[L, F]``.

        Batched classes of other packages take one seed for all lanes; they get the first.
        """
        many = self.tensors or isinstance(self.env, (SyncVectorEnv, AsyncVectorEnv))
        seed: Any = list(seeds) if many else seeds[0] & 0x7FFFFFFF
        observation, _ = self.env.reset(seed=seed)
        self._ended = None
        return self._features(observation)

    def step(self, action: Tensor) -> Step:
        """Act in all lanes.

        Args:
            action: ``[L]`` int64, counted from 0.
        """
        outside = action + self.start if self.start else action
        if self.tensors:  # one of our simulators: tensors on the device, SAME_STEP, all lanes final
            x, reward, terminated, truncated, info = self.env.step(outside)
            final = info["final_obs"]
            if x.ndim > 2:
                x, final = x.flatten(1), final.flatten(1)
            return Step(x, final, reward, terminated, truncated, None)
        observation, reward, terminated, truncated, info = self.env.step(outside.cpu().numpy())
        reward = torch.as_tensor(reward).to(self.device, torch.float32)
        terminated, truncated = self._flags(terminated), self._flags(truncated)
        x = self._features(observation)
        if self.mode is AutoresetMode.SAME_STEP:
            final = self._same_step_final(x, info)
            return Step(x, final, reward, terminated, truncated, None)
        if self.mode is AutoresetMode.NEXT_STEP:
            valid = None if self._ended is None else ~self._ended
            self._ended = terminated | truncated
            return Step(x, x, reward, terminated, truncated, valid)
        mask = (terminated | truncated).cpu().numpy()
        if not mask.any():
            return Step(x, x, reward, terminated, truncated, None)
        fresh, _ = self.env.reset(options={"reset_mask": mask})
        chosen_rows = torch.where(self._flags(mask).unsqueeze(1), self._features(fresh), x)
        return Step(chosen_rows, x, reward, terminated, truncated, None)

    def _same_step_final(self, x: Tensor, info: dict[str, Any]) -> Tensor:
        """True last observations where episodes ended, ``x`` elsewhere."""
        last = info.get("final_obs")
        if last is None:
            return x
        if isinstance(last, np.ndarray) and last.dtype != np.object_:
            mask = self._flags(info["_final_obs"]).unsqueeze(1)
            return torch.where(mask, self._features(last), x)
        final = x.clone()
        for lane in np.flatnonzero(info["_final_obs"]):
            final[lane] = torch.as_tensor(np.asarray(last[lane], dtype=np.float32).reshape(-1))
        return final

    def close(self) -> None:
        """Release the environment."""
        self.env.close()
