"""Probe environments: each isolates one ability and has a known optimum, as a ladder of tests.

The first probe that an agent fails names the fault: the critic's regression, its use of the
observation, the discount, the policy gradient, or their combination. After Andy Jones, "Debugging
RL, Without the Agonizing Pain" (2021).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from rlgrad.simulators.base import TorchVectorEnv


class Probe(TorchVectorEnv, ABC):
    """Episodes of ``length`` steps that observe a sign or the time; see the leaves' rewards.

    State: (sign in {-1, 1}, time in steps).
    """

    noise_per_reset: ClassVar[int] = 1
    length: ClassVar[int] = 1

    def spaces(self) -> tuple[Box, Discrete]:
        """One number, two actions."""
        return Box(-np.ones(1, np.float32), np.ones(1, np.float32)), Discrete(2)

    def initial(self, noise: Tensor) -> Tensor:
        """A fair random sign at time 0."""
        sign = torch.where(noise < 0.5, -1.0, 1.0).to(self.dtype)
        return torch.cat([sign, torch.zeros_like(sign)], -1)

    def transition(self, xp: Any, state: Any, action: Any) -> tuple[Any, Any, Any]:
        """The sign stays, time passes, the episode terminates at its length."""
        sign, time = state[:, 0], state[:, 1]
        reward = self.reward(xp, sign, time, xp.asarray(action, dtype=state.dtype))
        return xp.stack([sign, time + 1], -1), reward, time + 1 >= self.length

    @abstractmethod
    def reward(self, xp: Any, sign: Any, time: Any, action: Any) -> Any:
        """Reward ``[lanes]`` of a step, in memory of its own."""


class ValueProbe(Probe):
    """Always 0 observed, always reward 1: V = 1. Fails: the critic's loss or step."""

    def observe(self, xp: Any, state: Any) -> Any:
        """Zero."""
        return xp.zeros_like(state[:, :1])

    def reward(self, xp: Any, sign: Any, time: Any, action: Any) -> Any:
        """One."""
        return xp.ones_like(sign)


class ObservationProbe(Probe):
    """Reward is the observed sign: V = observation. Fails: what the critic sees."""

    def observe(self, xp: Any, state: Any) -> Any:
        """The sign."""
        return state[:, :1]

    def reward(self, xp: Any, sign: Any, time: Any, action: Any) -> Any:
        """The sign."""
        return sign * 1.0


class DiscountProbe(Probe):
    """Two steps, reward 1 at the end, time observed: V = (gamma, 1). Fails: discount, bootstrap."""

    length: ClassVar[int] = 2

    def observe(self, xp: Any, state: Any) -> Any:
        """The time, 0 or 1."""
        return xp.where(state[:, 1:] > 0, 1.0, 0.0 * state[:, 1:])

    def reward(self, xp: Any, sign: Any, time: Any, action: Any) -> Any:
        """One at the second step."""
        return time * 1.0


class ActionProbe(Probe):
    """Reward 1 for action 1, else -1, nothing observed: p(1) -> 1. Fails: the policy gradient."""

    def observe(self, xp: Any, state: Any) -> Any:
        """Zero."""
        return xp.zeros_like(state[:, :1])

    def reward(self, xp: Any, sign: Any, time: Any, action: Any) -> Any:
        """1 for action 1, -1 for action 0."""
        return action * 2 - 1


class BothProbe(Probe):
    """Reward 1 where the action matches the observed sign, else -1: fails: batching of the two."""

    def observe(self, xp: Any, state: Any) -> Any:
        """The sign."""
        return state[:, :1]

    def reward(self, xp: Any, sign: Any, time: Any, action: Any) -> Any:
        """1 where the action is 1 at sign 1 or 0 at sign -1, else -1."""
        return (action * 2 - 1) * sign


class TruncationProbe(Probe):
    """Reward 1 for ever, cut by a time limit: V = 1 / (1 - gamma). Fails: truncation as an end.

    Register it with ``max_episode_steps``; it never terminates.
    """

    length: ClassVar[int] = 1 << 40

    def observe(self, xp: Any, state: Any) -> Any:
        """Zero: the limit cannot be seen, so a truncated value must be bootstrapped."""
        return xp.zeros_like(state[:, :1])

    def reward(self, xp: Any, sign: Any, time: Any, action: Any) -> Any:
        """One."""
        return xp.ones_like(sign)


class DialProbe(TorchVectorEnv):
    """One step, 16 actions: turn a dial towards a seen angle, reward the cosine of what is missed.

    A uniform number in [-1/4, 1/4] that nobody sees is added to the reward. With many actions and
    little noise most of the gradient's variance is the action's, which no baseline of the state
    can take away. State: (angle, that number).
    """

    noise_per_reset: ClassVar[int] = 2
    positions: ClassVar[int] = 16

    def spaces(self) -> tuple[Box, Discrete]:
        """Cosine and sine of the angle; positions of the dial."""
        high = np.ones(2, np.float32)
        return Box(-high, high), Discrete(self.positions)

    def initial(self, noise: Tensor) -> Tensor:
        """A uniform angle."""
        return torch.stack([2 * math.pi * noise[:, 0], 0.5 * noise[:, 1] - 0.25], -1)

    def observe(self, xp: Any, state: Any) -> Any:
        """Cosine and sine of the angle."""
        return xp.stack([xp.cos(state[:, 0]), xp.sin(state[:, 0])], -1)

    def transition(self, xp: Any, state: Any, action: Any) -> tuple[Any, Any, Any]:
        """The reward, and the end."""
        turned = xp.asarray(action, dtype=state.dtype) * (2 * math.pi / self.positions)
        reward = xp.cos(state[:, 0] - turned) + state[:, 1]
        return xp.asarray(state, copy=True), reward, xp.ones_like(reward) > 0
