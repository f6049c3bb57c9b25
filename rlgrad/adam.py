"""Adam with a seed axis: step sizes, step counts and moments are each seed's own.

torch's Adam takes one step size for all rows of a parameter; here a schedule may depend on a
seed's own step count, so that a seed trains alike alone and among others. Only operations that give
a seed the same bits in any company are used (no pow).
"""

from __future__ import annotations

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

    @torch.no_grad()
    def step(
        self,
        parameter: Float[Tensor, "S P"],
        gradient: Float[Tensor, "S P"],
        step_size: Float[Tensor, "S 1"],
    ) -> None:
        """Move ``parameter`` against ``gradient``, each seed by its own step size."""
        powers, mean, square = native(self.powers), native(self.mean), native(self.square)
        g, size = native(gradient), native(step_size)
        powers *= native(self.decays)
        left, right = 1 - powers[:, :1], 1 - powers[:, 1:]
        if isinstance(g, np.ndarray):
            left, right = left.astype(mean.dtype), right.astype(mean.dtype)
        else:
            left, right = left.to(mean.dtype), right.to(mean.dtype)
        mean *= self.beta1
        mean += (1 - self.beta1) * g
        square *= self.beta2
        square += (1 - self.beta2) * (g * g)
        # The square root of both: x ** 0.5 is each library's sqrt.
        root = (square / right) ** 0.5
        root += self.epsilon
        move = mean * (size / left)
        move /= root
        parameter = native(parameter)
        parameter -= move
