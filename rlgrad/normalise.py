"""Running statistics per seed: of observations, and of discounted returns, which scale rewards.

Moments are pooled (Chan et al. 1979) in float64, and are only renewed after an update.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor, nn

from rlgrad.estimators.networks import SeedMLP
from rlgrad.estimators.pooling import Batch
from rlgrad.returns import return_to_go

SMALLEST_DEVIATION, CLIP = 1e-4, 10.0
SMALLEST_VARIANCE = 1e-8


def _register(module: nn.Module, seeds: int, features: int) -> None:
    """Buffers for ``fold``: count ``[S, 1]``, mean and sum of squares about it ``[S, F]``."""
    for name, width in (("count", 1), ("mean", features), ("squares", features)):
        module.register_buffer(name, torch.zeros(seeds, width, dtype=torch.float64))


def moments(columns: Float[Tensor, "S F rows"], weight: Float[Tensor, "S 1 rows"]) -> Batch:
    """Means ``[S, F]`` of the rows of weight 1, and the sums of squares about them."""
    n = weight.sum(-1)
    middle = (columns * weight).sum(-1) / n.clamp(min=1.0)
    added = ((columns - middle.unsqueeze(-1)).square() * weight).sum(-1)
    return Batch((middle,), n.squeeze(1), added)


def fold(
    count: Float[Tensor, "S 1"],
    mean: Float[Tensor, "S F"],
    squares: Float[Tensor, "S F"],
    batch: Batch,
) -> None:
    """Pool moments with those of a batch; the first three are changed in place."""
    (middle,), rows, added = batch
    assert rows is not None
    assert added is not None
    n = rows.unsqueeze(1)
    total = (count + n).clamp(min=1.0)
    gap = middle - mean
    squares += added + gap * gap * (count * n / total)
    mean += gap * (n / total)
    count += n


class Normaliser(nn.Module):
    """(x - mean) / deviation per seed and feature, clipped to +-10; starts as the identity.

    Plain running normalisation moves every network's output whenever its statistics move, which
    keeps a fast learner from learning; here first layers are rescaled by as much as they changed.

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
        _register(self, seeds, features)
        self.register_buffer("deviation", torch.ones(seeds, features))

    def forward(self, x: Float[Tensor, "S *batch F"]) -> Float[Tensor, "S *batch F"]:
        """Normalised observations."""
        shape = (self.mean.shape[0], *[1] * (x.ndim - 2), self.mean.shape[1])
        centred = (x - self.mean.to(x.dtype).view(shape)) / self.deviation.view(shape)
        return centred.clamp_(-CLIP, CLIP)

    def update(
        self,
        x: Num[Tensor, "S T N F"],
        valid: Bool[Tensor, "S T N"],
        networks: Iterable[SeedMLP],
    ) -> None:
        """Fold in valid observations and rebase first layers to match."""
        self.take(self.batch(x, valid), networks)

    @torch.no_grad()
    def batch(self, x: Num[Tensor, "S T N F"], valid: Bool[Tensor, "S T N"]) -> Batch:
        """What ``update`` learns of observations."""
        columns = x.flatten(1, 2).transpose(1, 2).to(torch.float64).contiguous()
        return moments(columns, valid.flatten(1).unsqueeze(1).to(columns))

    @torch.no_grad()
    def take(self, batch: Batch, networks: Iterable[SeedMLP]) -> None:
        """Fold in what ``batch`` gave and rebase first layers to match."""
        before = self.mean.to(self.deviation.dtype, copy=True)
        fold(self.count, self.mean, self.squares, batch)
        variance = self.squares / self.count.clamp(min=1.0)
        deviation = variance.sqrt().clamp(min=SMALLEST_DEVIATION).to(self.deviation)
        deviation = torch.where(self.count > 1, deviation, self.deviation)
        shift = (self.mean.to(before) - before) / self.deviation
        for network in networks:
            network.rebase(shift, deviation / self.deviation)
        self.deviation.copy_(deviation)


class ReturnSpread(nn.Module):
    """Standard deviation of the discounted return so far, over the steps of all lanes of a seed.

    The return so far is G_t = r_t + gamma G_{t-1} within the episode, as in the VecNormalize of
    Stable-Baselines3 and in Gymnasium's NormalizeReward.

    Args:
        seeds: S.
        lanes: N.
        gamma: discount.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor
    carry: Tensor

    def __init__(self, seeds: int, lanes: int, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma
        _register(self, seeds, 1)
        self.register_buffer("carry", torch.zeros(seeds, lanes, dtype=torch.float64))

    def update(
        self,
        reward: Float[Tensor, "S T N"],
        done: Bool[Tensor, "S T N"],
        valid: Bool[Tensor, "S T N"],
        whole: bool,
    ) -> None:
        """Fold in a rollout; ``whole`` episodes start anew with each."""
        self.take(self.batch(reward, done, valid, whole))

    @torch.no_grad()
    def batch(
        self,
        reward: Float[Tensor, "S T N"],
        done: Bool[Tensor, "S T N"],
        valid: Bool[Tensor, "S T N"],
        whole: bool,
    ) -> Batch:
        """What ``update`` learns of a rollout; what its lanes still owe is kept."""
        counted = torch.where(valid, reward, 0.0).to(torch.float64)
        if not whole:
            counted[:, 0] += self.gamma * self.carry
        begins = torch.cat([torch.zeros_like(done[:, :1]), done[:, :-1]], 1)
        # The sum over the past is the sum to go of time reversed.
        backward = return_to_go(counted.flip(1), begins.flip(1), self.gamma)
        self.carry.copy_(torch.where(done[:, -1], 0.0, backward[:, 0]))
        weight = valid.flip(1).flatten(1).unsqueeze(1).to(backward)
        return moments(backward.flatten(1).unsqueeze(1), weight)

    @torch.no_grad()
    def take(self, batch: Batch) -> None:
        """Fold in what ``batch`` gave."""
        fold(self.count, self.mean, self.squares, batch)

    def deviation(self) -> Float[Tensor, "S 1"]:
        """By which rewards are divided; 1 as long as all returns were the same."""
        variance = self.squares / self.count.clamp(min=1.0)
        known = (variance + SMALLEST_VARIANCE).sqrt()
        return torch.where(variance > 0, known, 1.0)

    def bound(self) -> Float[Tensor, "S 1"]:
        """Of divided rewards: 10, or infinity before the first rollout."""
        return torch.full_like(self.count, torch.inf).masked_fill(self.count > 0, CLIP)
