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

    def __init__(self, num_envs: int = 1, **kwargs: Any) -> None:
        super().__init__(num_envs, **kwargs)
        self._force = self.array([-FORCE, FORCE])
        pole = POLE_MOMENT, TOTAL_MASS, MASS_POLE, HALF_LENGTH
        self._numbers = self.numbers(GRAVITY, *pole, 4 / 3, TAU, X_LIMIT, ANGLE_LIMIT)

    def spaces(self) -> tuple[Box, Discrete]:
        """Gymnasium's own: observations reach to twice the limits."""
        high = np.array([2 * X_LIMIT, np.inf, 2 * ANGLE_LIMIT, np.inf], dtype=np.float32)
        return Box(-high, high, dtype=np.float32), Discrete(2)

    def initial(self, noise: Tensor) -> Tensor:
        """Uniform in [-0.05, 0.05) in every component."""
        return noise * 0.1 - 0.05

    def transition(self, xp: Any, state: Any, action: Any) -> tuple[Any, Any, Any]:
        """Explicit Euler, as Gymnasium's default, operation for operation."""
        gravity, pole_moment, mass, mass_pole, half, ratio, tau, far, steep = self._numbers
        rows = state.T
        angle, spin = rows[2], rows[3]
        cos, sin = xp.cos(angle), xp.sin(angle)
        temp = spin * spin
        temp *= pole_moment
        temp *= sin
        temp += self._force[action]
        temp /= mass
        moment = cos * cos
        moment *= mass_pole
        moment /= mass
        moment = ratio - moment
        moment *= half
        sin *= gravity
        sin -= cos * temp
        after = xp.empty_like(rows)  # at first the rates of change
        after[0::2] = rows[1::2]
        pull = xp.divide(sin, moment, out=after[3]) * pole_moment
        pull *= cos
        pull /= mass
        xp.subtract(temp, pull, out=after[1])
        after *= tau
        after += rows
        terminated = abs(after[0]) > far
        terminated |= abs(after[2]) > steep
        return after.T, 1.0, terminated
