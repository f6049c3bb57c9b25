"""MountainCar-v0 in tensors: the dynamics of Gymnasium's class, step for step."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from rlgrad.simulators.base import TorchVectorEnv

FORCE, GRAVITY = 0.001, 0.0025  # position / step^2
LEFT, RIGHT, GOAL, SPEED = -1.2, 0.6, 0.5, 0.07  # positions; position / step


class MountainCar(TorchVectorEnv):
    """Drive an underpowered car up a hill: -1 per step until it is there.

    State and observation: position, velocity (position / step). Actions: push left, not at all,
    right. Source: Moore 1990, as in ``gymnasium.envs.classic_control.mountain_car``.
    """

    noise_per_reset: ClassVar[int] = 1

    def spaces(self) -> tuple[Box, Discrete]:
        """Gymnasium's own."""
        low, high = np.array([LEFT, -SPEED]), np.array([RIGHT, SPEED])
        return Box(low.astype(np.float32), high.astype(np.float32)), Discrete(3)

    def initial(self, noise: Tensor) -> Tensor:
        """At rest, uniform in [-0.6, -0.4)."""
        return torch.cat([noise * 0.2 - 0.6, torch.zeros_like(noise)], -1)

    def transition(self, xp: Any, state: Any, action: Any) -> tuple[Any, Any, Any]:
        """Gravity along sin(3 x), a push, and a wall on the left that takes all speed."""
        push = xp.asarray(action, dtype=state.dtype) - 1
        velocity = state[:, 1] + (push * FORCE - GRAVITY * xp.cos(3 * state[:, 0]))
        velocity = xp.clip(velocity, -SPEED, SPEED)
        moved = state[:, 0] + velocity
        velocity = xp.where((moved <= LEFT) & (velocity < 0), 0.0, velocity)
        after = xp.empty_like(state)
        after[:, 0], after[:, 1] = xp.clip(moved, LEFT, RIGHT), velocity
        terminated = (moved >= GOAL) & (velocity >= 0)
        return after, xp.full_like(velocity, -1.0), terminated
