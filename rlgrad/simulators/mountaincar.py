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

    def __init__(self, num_envs: int = 1, **kwargs: Any) -> None:
        super().__init__(num_envs, **kwargs)
        self._push = self.array([-FORCE, 0.0, FORCE])
        self._numbers = self.numbers(3.0, GRAVITY, LEFT, GOAL, 0.0)
        self._bounds = [self.array(each) for each in (-SPEED, SPEED, LEFT, RIGHT)]

    def spaces(self) -> tuple[Box, Discrete]:
        """Gymnasium's own."""
        low, high = np.array([LEFT, -SPEED]), np.array([RIGHT, SPEED])
        return Box(low.astype(np.float32), high.astype(np.float32)), Discrete(3)

    def initial(self, noise: Tensor) -> Tensor:
        """At rest, uniform in [-0.6, -0.4)."""
        return torch.cat([noise * 0.2 - 0.6, torch.zeros_like(noise)], -1)

    def transition(self, xp: Any, state: Any, action: Any) -> tuple[Any, Any, Any]:
        """Gravity along sin(3 x), a push, and a wall on the left that takes all speed."""
        three, gravity, left, goal, zero = self._numbers
        slowest, fastest, wall, end = self._bounds
        rows = state.T
        pull = xp.cos(rows[0] * three)
        pull *= gravity
        velocity = self._push[action] - pull
        velocity += rows[1]
        velocity = xp.minimum(xp.maximum(velocity, slowest), fastest)
        moved = rows[0] + velocity
        velocity = xp.where((moved <= left) & (velocity < zero), zero, velocity)
        after = xp.empty_like(rows)
        xp.minimum(xp.maximum(moved, wall), end, out=after[0])
        after[1] = velocity
        return after.T, -1.0, (moved >= goal) & (velocity >= zero)
