"""Running normalisation of observations that leaves the networks' functions as they are.

Plain running normalisation moves every network's output whenever its statistics move, which keeps
a fast learner from learning; here first layers are rescaled by as much as the statistics changed.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor, nn

from rlgrad.estimators.networks import SeedMLP

SMALLEST_DEVIATION, CLIP = 1e-4, 10.0


class Normaliser(nn.Module):
    """(x - mean) / deviation per seed and feature, clipped to +-10; starts as the identity.

    Args:
        seeds: S.
        features: F.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor
    deviation: Tensor

    def __init__(self, seeds: int, features: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(seeds, 1))
        self.register_buffer("mean", torch.zeros(seeds, features))
        self.register_buffer("squares", torch.zeros(seeds, features))
        self.register_buffer("deviation", torch.ones(seeds, features))

    def forward(self, x: Float[Tensor, "S *batch F"]) -> Float[Tensor, "S *batch F"]:
        """Normalised observations."""
        shape = (self.mean.shape[0], *[1] * (x.ndim - 2), self.mean.shape[1])
        centred = (x - self.mean.view(shape)) / self.deviation.view(shape)
        return centred.clamp_(-CLIP, CLIP)

    @torch.no_grad()
    def update(
        self,
        x: Num[Tensor, "S T N F"],
        valid: Bool[Tensor, "S T N"],
        networks: Iterable[SeedMLP],
    ) -> None:
        """Fold in valid observations (Chan's pooled moments) and rebase first layers to match."""
        columns = x.flatten(1, 2).transpose(1, 2).contiguous()
        weight = valid.flatten(1).unsqueeze(1).to(x)
        n = weight.sum(-1)
        mean = (columns * weight).sum(-1) / n.clamp(min=1.0)
        squares = ((columns - mean.unsqueeze(-1)).square() * weight).sum(-1)
        total = (self.count + n).clamp(min=1.0)
        gap = mean - self.mean
        self.squares += squares + gap * gap * (self.count * n / total)
        shift = gap * (n / total)
        self.count += n
        deviation = (self.squares / total).sqrt().clamp(min=SMALLEST_DEVIATION)
        deviation = torch.where(self.count > 1, deviation, self.deviation)
        for network in networks:
            network.rebase(shift / self.deviation, deviation / self.deviation)
        self.mean += shift
        self.deviation.copy_(deviation)
