"""Adam with a seed axis: step sizes, step counts and moments are each seed's own.

torch's Adam takes one step size for all rows of a parameter; here a schedule may depend on a
seed's own step count, so that a seed trains alike alone and among others. Only operations that give
a seed the same bits in any company are used (no pow).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlgrad.estimators.arrays import native


class SeedAdam(nn.Module):
    """State of Adam (Kingma & Ba 2015, arXiv:1412.6980) for a flat parameter ``[S, P]``.

    Args:
        parameter: ``[S, P]``, updated in place.
        beta1: decay of gradients.
        beta2: decay of squared gradients.
        epsilon: added to the root.
    """

    mean: Tensor
    square: Tensor
    powers: Tensor
    decays: Tensor

    def __init__(
        self, parameter: Tensor, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8
    ) -> None:
        super().__init__()
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon
        self.register_buffer("mean", torch.zeros_like(parameter.detach()))
        self.register_buffer("square", torch.zeros_like(parameter.detach()))
        ones = torch.ones(parameter.shape[0], 2, device=parameter.device, dtype=torch.float64)
        self.register_buffer("powers", ones)
        self.register_buffer("decays", ones.new_tensor([beta1, beta2]), persistent=False)

    def _arrays(self) -> tuple[Any, Any, Any, Any, Any]:
        """Mean, square, powers, decays and a scratch like the mean, kept while they stay there."""
        kept: tuple[Any, Any] | None = self.__dict__.get("_kept")
        if kept is None or kept[0] is not self.mean:
            state = self.mean, self.square, self.powers, self.decays, torch.empty_like(self.mean)
            kept = self.__dict__["_kept"] = self.mean, tuple(native(x) for x in state)
        return kept[1]

    def __getstate__(self) -> dict[str, object]:
        # A copy has memory of its own.
        return {name: value for name, value in self.__dict__.items() if name != "_kept"}

    def step(
        self,
        parameter: Float[Tensor, "S P"],
        gradient: Float[Tensor, "S P"],
        step_size: Float[Tensor, "S 1"],
    ) -> None:
        """Move ``parameter`` against ``gradient``, each seed by its own step size."""
        mean, square, powers, decays, scratch = self._arrays()
        g, moved = native(gradient), native(parameter)
        xp: Any = np if isinstance(mean, np.ndarray) else torch
        powers *= decays
        left, right = native((1 - self.powers).to(self.mean)).T
        xp.multiply(g, 1 - self.beta1, out=scratch)
        mean *= self.beta1
        mean += scratch
        xp.multiply(g, g, out=scratch)
        scratch *= 1 - self.beta2
        square *= self.beta2
        square += scratch
        xp.divide(square, right[:, None], out=scratch)
        xp.sqrt(scratch, out=scratch)
        scratch += self.epsilon
        xp.divide(mean, scratch, out=scratch)
        scratch *= native(step_size) / left[:, None]
        moved -= scratch
