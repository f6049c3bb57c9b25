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


def _accelerations(xp: Any, state: Any, torque: Any) -> Any:
    """Time derivative of (angle, angle, spin, spin) ``[4, lanes]``, after Sutton & Barto."""
    first, second, spin, second_spin = state
    cos, sin = xp.cos(second), xp.sin(second)
    lever = MASS * LENGTH * CENTRE
    inertia = MASS * (CENTRE**2 + LENGTH**2 + CENTRE**2 + 2 * LENGTH * CENTRE * cos) + 2 * INERTIA
    coupling = MASS * (CENTRE**2 + LENGTH * CENTRE * cos) + INERTIA
    # Gymnasium's cos(x - pi / 2) is sin(x).
    second_pull = MASS * CENTRE * GRAVITY * xp.sin(first + second)
    swing = second_spin * second_spin + 2 * second_spin * spin
    pull = second_pull - lever * swing * sin + MASS * (CENTRE + LENGTH) * GRAVITY * xp.sin(first)
    force = torque + coupling / inertia * pull - lever * (spin * spin) * sin - second_pull
    second_rate = force / (MASS * CENTRE**2 + INERTIA - coupling * coupling / inertia)
    rate = -(coupling * second_rate + pull) / inertia
    return xp.stack([spin, second_spin, rate, second_rate])


class Acrobot(TorchVectorEnv):
    """Swing a two-link arm's end above a line: -1 per step until it is there.

    State: angle of the first link (0: down), of the second relative to it (rad), their angular
    velocities (rad/s). Observation: cosine and sine of both angles, angular velocities. Actions:
    torque -1, 0 or 1 N m on the joint between the links.
    Source: Sutton 1996, as in ``gymnasium.envs.classic_control.acrobot``.
    """

    noise_per_reset: ClassVar[int] = 4

    def spaces(self) -> tuple[Box, Discrete]:
        """Gymnasium's own."""
        high = np.array([1, 1, 1, 1, *SPIN_LIMITS], dtype=np.float32)
        return Box(-high, high, dtype=np.float32), Discrete(3)

    def initial(self, noise: Tensor) -> Tensor:
        """Uniform in [-0.1, 0.1) in every component."""
        return noise * 0.2 - 0.1

    def observe(self, xp: Any, state: Any) -> Any:
        """(cos, sin) of both angles and the angular velocities."""
        cos, sin = xp.cos(state[:, :2]), xp.sin(state[:, :2])
        parts = [cos[:, 0], sin[:, 0], cos[:, 1], sin[:, 1], state[:, 2], state[:, 3]]
        return xp.stack(parts, -1)

    def transition(self, xp: Any, state: Any, action: Any) -> tuple[Any, Any, Any]:
        """One step of the classical Runge-Kutta rule, then angles wrapped and speeds bounded."""
        torque = xp.asarray(action, dtype=state.dtype) - 1
        start = state.T
        k1 = _accelerations(xp, start, torque)
        k2 = _accelerations(xp, start + TAU / 2 * k1, torque)
        k3 = _accelerations(xp, start + TAU / 2 * k2, torque)
        k4 = _accelerations(xp, start + TAU * k3, torque)
        first, second, spin, second_spin = start + TAU / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        first, second = (x - TURN * xp.round(x / TURN) for x in (first, second))
        low, high = SPIN_LIMITS
        spin, second_spin = xp.clip(spin, -low, low), xp.clip(second_spin, -high, high)
        terminated = -xp.cos(first) - xp.cos(first + second) > 1.0
        after = xp.stack([first, second, spin, second_spin], -1)
        reward = xp.asarray(terminated, dtype=state.dtype) - 1
        return after, reward, terminated
