"""What each simulated environment says of itself: its spaces, its starts, and one step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from gymnasium import Space
from torch import Tensor

from rlgrad.simulators.arrays import Arrays


class Dynamics(Arrays, ABC):
    """An environment as functions of the states of many lanes; it knows of no episodes or time.

    Args:
        device: where all tensors live.
        dtype: of state, observations and rewards.
    """

    noise_per_reset: ClassVar[int]
    """Uniform numbers that ``initial`` takes per lane."""

    @abstractmethod
    def spaces(self) -> tuple[Space[Any], Space[Any]]:
        """Observation and action space of one lane."""

    @abstractmethod
    def initial(self, noise: Tensor) -> Tensor:
        """New episodes' states ``[n, ...]`` from numbers in (0, 1) ``[n, noise_per_reset]``."""

    @abstractmethod
    def transition(self, xp: Any, state: Any, action: Any) -> tuple[Any, Any, Any]:
        """(next state, reward ``[lanes]``, terminated ``[lanes]``) of one step; pure.

        The reward may be one number for all lanes. The next state is in memory of its own; on the
        CPU steps are fastest where a state's memory, like the given one's, is ``[..., lanes]``.

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
        after, reward, terminated = map(
            torch.as_tensor, self.transition(self.xp, self._native(state), self._native(action))
        )
        return after, reward.to(after).expand(len(after)), terminated
