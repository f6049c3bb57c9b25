"""CartPole-v1 in tensors: the dynamics of Gymnasium's class, step for step."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from rlgrad.simulators.base import TorchVectorEnv

GRAVITY, FORCE, TAU = 9.8, 10.0, 0.02  # m/s^2, N, s between steps
MASS_CART, MASS_POLE, HALF_LENGTH = 1.0, 0.1, 0.5  # kg, kg, m
TOTAL_MASS, POLE_MOMENT = MASS_CART + MASS_POLE, MASS_POLE * HALF_LENGTH
X_LIMIT, ANGLE_LIMIT = 2.4, 12 * 2 * math.pi / 360  # m, rad


class CartPole(TorchVectorEnv):
    """Balance a pole on a cart: +1 per step, up to the time limit.

    State and observation: position (m), velocity (m/s), angle (rad), angular velocity (rad/s).
    Source: Barto, Sutton & Anderson 1983, as in ``gymnasium.envs.classic_control.cartpole``.
    """

    noise_per_reset: ClassVar[int] = 4

    def spaces(self) -> tuple[Box, Discrete]:
        """Gymnasium's own: observations reach to twice the limits."""
        high = np.array([2 * X_LIMIT, np.inf, 2 * ANGLE_LIMIT, np.inf], dtype=np.float32)
        return Box(-high, high, dtype=np.float32), Discrete(2)

    def initial(self, noise: Tensor) -> Tensor:
        """Uniform in [-0.05, 0.05) in every component."""
        return noise * 0.1 - 0.05

    def transition(self, xp: Any, state: Any, action: Any) -> tuple[Any, Any, Any]:
        """Explicit Euler, as Gymnasium's default, operation for operation."""
        velocity, angle, spin = state[:, 1], state[:, 2], state[:, 3]
        cos, sin = xp.cos(angle), xp.sin(angle)
        force = FORCE * (2 * xp.asarray(action, dtype=state.dtype) - 1)
        temp = (force + POLE_MOMENT * (spin * spin) * sin) / TOTAL_MASS
        spin_rate = (GRAVITY * sin - cos * temp) / (
            HALF_LENGTH * (4 / 3 - MASS_POLE * (cos * cos) / TOTAL_MASS)
        )
        rate = xp.empty_like(state)
        rate[:, 0], rate[:, 2], rate[:, 3] = velocity, spin, spin_rate
        rate[:, 1] = temp - POLE_MOMENT * spin_rate * cos / TOTAL_MASS
        after = state + TAU * rate
        terminated = (abs(after[:, 0]) > X_LIMIT) | (abs(after[:, 2]) > ANGLE_LIMIT)
        return after, xp.ones_like(angle), terminated
