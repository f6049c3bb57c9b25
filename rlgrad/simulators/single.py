"""One lane of a simulator as an ordinary ``gymnasium.Env``, for ``gymnasium.make``."""

from __future__ import annotations

import importlib
from typing import Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import NDArray


class SingleLane(gymnasium.Env[NDArray[np.float32], Any]):
    """A ``TorchVectorEnv`` of one lane, with numpy in and out and no autoreset.

    Args:
        simulator: "module:Class" of the simulator.
        render_mode: None only.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}  # type: ignore[misc]

    def __init__(self, simulator: str, render_mode: str | None = None) -> None:
        module, name = simulator.split(":")
        self.render_mode = render_mode
        self._env = getattr(importlib.import_module(module), name)(1, render_mode=render_mode)
        self.observation_space = self._env.single_observation_space
        self.action_space = self._env.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """See ``gymnasium.Env.reset``."""
        super().reset(seed=seed)
        observation, _ = self._env.reset(seed=seed)
        return observation[0].numpy(), {}

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """See ``gymnasium.Env.step``; truncation is ``gymnasium.make``'s own wrapper."""
        _, reward, terminated, _, info = self._env.step(np.asarray([action]))
        return info["final_obs"][0].numpy(), float(reward[0]), bool(terminated[0]), False, {}
