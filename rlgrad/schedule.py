"""How step sizes fall as env steps are taken: one rule for a host's counters and a device's."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlgrad.config import Config

Number = TypeVar("Number", float, Tensor)


class Schedule(NamedTuple):
    """Shares of the full step sizes: linear from 1 to ``least``, which stays."""

    least: float
    horizon: int
    """Env steps of a seed after which the share is ``least``."""

    @classmethod
    def of(cls, config: Config) -> Schedule:
        """What a card asks for: over its own number of steps, or over ``-n``."""
        return cls(config.learning_rate_final, config.anneal_steps or config.total_timesteps)

    def _after(self, done: Number) -> Number:
        """The share when so much of the horizon is done, 0 to 1."""
        return 1 - (1 - self.least) * done

    def share(self, steps: int) -> float:
        """Of the full step sizes, after so many env steps of a seed."""
        return self._after(min(1.0, steps / self.horizon))

    def shares(self, steps: Int[Tensor, " S"]) -> Float[Tensor, "S 1"]:
        """As ``share``, of counters in a tensor, without asking its device."""
        done = (steps.to(torch.float64) / self.horizon).clamp(max=1.0)
        return self._after(done).to(torch.float32).unsqueeze(1)
