"""What a one-step stochastic problem is: logits, an objective of the choice, and its gradient."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rlgrad.estimators import exact_gradient
from rlgrad.estimators.base import Objective
from rlgrad.estimators.exact import MOST_CHOICES


@dataclass(frozen=True)
class Problem:
    """Maximise or minimise E[f(b)] over the logits of D independent categorical factors b."""

    name: str
    summary: str
    source: str
    logits: Tensor
    """``[D, A]`` float64; -inf masks a category."""
    f: Objective
    """The value of one-hot or relaxed choices ``[*batch, D, A]``, without noise: ``[*batch]``."""
    noise: float = 0.0
    """Standard deviation of the noise that every call of f adds, as an environment's reward has."""
    differentiable: bool = True
    """f accepts relaxed choices and is differentiable in them."""
    free: Tensor | None = None
    """``[D, A]`` bool: which logits are parameters and count; the others are constants."""

    @property
    def choices(self) -> int:
        """How many joint choices there are."""
        factors, categories = self.logits.shape
        return int(categories**factors)

    @property
    def enumerable(self) -> bool:
        """Whether the exact gradient is affordable."""
        return self.choices <= MOST_CHOICES

    def observed(self, generator: torch.Generator | None = None) -> Objective:
        """F with fresh noise at every call."""

        def noisy(choice: Tensor) -> Tensor:
            f = self.f(choice)
            noise = torch.randn(f.shape, dtype=f.dtype, device=f.device, generator=generator)
            return f + self.noise * noise

        return noisy if self.noise else self.f

    def exact(self) -> tuple[Tensor, Tensor]:
        """E[f] and d E[f] / d logits ``[D, A]``, by enumerating every choice.

        Raises:
            ValueError: where there are too many choices.
        """
        return exact_gradient(self.logits, self.f)

    def counted(self, x: Tensor) -> Tensor:
        """The entries of ``[D, A]`` at logits that are parameters: ``[P]``."""
        return x.flatten() if self.free is None else x[self.free]

    def at(self, logits: Tensor) -> Problem:
        """The same objective at other logits ``[D, A]``."""
        return replace(self, logits=logits)
