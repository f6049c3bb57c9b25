"""Acrobot-v1 in tensors: the dynamics of Gymnasium's class, in its "book" form."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from rlgrad.simulators.base import TorchVectorEnv

GRAVITY, TAU = 9.8, 0.2  # m/s^2, s between steps
MASS, LENGTH, CENTRE, INERTIA = 1.0, 1.0, 0.5, 1.0  # kg, m, m, kg m^2, of either link
SPIN_LIMITS = 4 * math.pi, 9 * math.pi  # rad/s of the first and second joint
TURN = 2 * math.pi


LEVER = MASS * LENGTH * CENTRE
FIRST = MASS * (2 * CENTRE**2 + LENGTH**2) + 2 * INERTIA  # of inertia that no angle changes
SECOND = MASS * CENTRE**2 + INERTIA
PULL, SECOND_PULL = MASS * (CENTRE + LENGTH) * GRAVITY, MASS * CENTRE * GRAVITY


class Acrobot(TorchVectorEnv):
    """Swing a two-link arm's end above a line: -1 per step until it is there.

    State: angle of the first link (0: down), of the second relative to it (rad), their angular
    velocities (rad/s). Observation: cosine and sine of both angles, angular velocities. Actions:
    torque -1, 0 or 1 N m on the joint between the links.
    Source: Sutton 1996, as in ``gymnasium.envs.classic_control.acrobot``.
    """

    noise_per_reset: ClassVar[int] = 4

    def __init__(self, num_envs: int = 1, **kwargs: Any) -> None:
        super().__init__(num_envs, **kwargs)
        self._torque, self._minus_one = self.array([-1.0, 0.0, 1.0]), self.array(-1.0)
        self._numbers = self.numbers(2.0, LEVER, 2 * LEVER, FIRST, SECOND, PULL, SECOND_PULL)
        self._rule = self.numbers(TAU / 2, TAU, 2.0, TAU / 6, 1 / TURN, 0.5, TURN, -1.0)
        self._fastest = self.array([[limit] for limit in SPIN_LIMITS])

    def spaces(self) -> tuple[Box, Discrete]:
        """Gymnasium's own."""
        high = np.array([1, 1, 1, 1, *SPIN_LIMITS], dtype=np.float32)
        return Box(-high, high, dtype=np.float32), Discrete(3)

    def initial(self, noise: Tensor) -> Tensor:
        """Uniform in [-0.1, 0.1) in every component."""
        return noise * 0.2 - 0.1

    def observe(self, xp: Any, state: Any) -> Any:
        """(cos, sin) of both angles and the angular velocities."""
        rows = state.T
        seen = xp.concatenate([rows, rows[2:]])
        seen[0:4:2], seen[1:4:2] = xp.cos(rows[:2]), xp.sin(rows[:2])
        return seen.T

    def _rates(self, xp: Any, state: Any, torque: Any) -> Any:
        """Time derivative of (angle, angle, spin, spin) ``[4, lanes]``, after Sutton & Barto."""
        two, lever, levers, first, second, pull_down, second_down = self._numbers
        spin, second_spin = state[2], state[3]
        cos, bend = xp.cos(state[1]), xp.sin(state[1]) * lever
        coupling = cos * lever
        coupling += second
        cos *= levers
        inertia = cos
        inertia += first
        ratio = coupling / inertia
        # Gymnasium's cos(x - pi / 2) is sin(x).
        second_pull = xp.sin(state[0] + state[1])
        second_pull *= second_down
        swing = spin * two
        swing += second_spin
        swing *= second_spin
        swing *= bend
        pull = xp.sin(state[0])
        pull *= pull_down
        pull += second_pull
        pull -= swing
        force = ratio * pull
        force += torque
        bend *= spin * spin
        force -= bend
        force -= second_pull
        ratio *= coupling
        force /= second - ratio
        coupling *= force
        coupling += pull
        coupling /= inertia
        rates = xp.concatenate([state[2:], state[2:]])
        rates[2], rates[3] = -coupling, force
        return rates

    def transition(self, xp: Any, state: Any, action: Any) -> tuple[Any, Any, Any]:
        """One step of the classical Runge-Kutta rule, then angles wrapped and speeds bounded."""
        half, whole, two, sixth, per_turn, middle, turn, low = self._rule
        torque, rows = self._torque[action], state.T
        sum_of_rates = rate = self._rates(xp, rows, torque)
        for step, weight in (half, two), (half, two), (whole, None):
            rate = self._rates(xp, rate * step + rows, torque)
            sum_of_rates = sum_of_rates + (rate if weight is None else rate * weight)
        sum_of_rates *= sixth
        after = rows + sum_of_rates
        angles = after[:2]
        angles -= xp.floor(angles * per_turn + middle) * turn
        after[2:] = xp.minimum(xp.maximum(after[2:], -self._fastest), self._fastest)
        terminated = xp.cos(after[0]) + xp.cos(after[0] + after[1]) < low
        return after.T, terminated + self._minus_one, terminated
