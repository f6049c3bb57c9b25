"""First and second moments of estimates, and what can be said of them with how much certainty.

Lanes are independent, estimates of one lane are not, so a lane's mean gradient is the unit here:
with G_i that of lane i, everything about means is in the products G_i . G_j, an ``[L, L]`` matrix
however many parameters there are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from rlgrad.estimators.networks import Stack

Floats = NDArray[np.float64]
UNITS = 512  # independent units at most; further lanes share one
ROUNDING = 1e-5  # of the gradients' size: differences that are of float32's rounding
LARGEST = 1e6  # of a t statistic: a smaller spread around its mean is float32's rounding
LUCK = 1e-6  # chance, per row, that a bias is found where there is none


def layer_slices(network: Stack) -> list[slice]:
    """Where bias and weight of each layer stand in a row of parameters."""
    edges = np.cumsum([0, *network.sizes[:-1]])[::2]
    return [slice(int(a), int(b)) for a, b in pairwise(edges)]


def units(lane: Tensor) -> Tensor:
    """Independent units of estimates: their lanes, or where there are many, groups of them."""
    return lane % UNITS


class Gatherer:
    """Adds up estimates' parameter gradients, block by block.

    Args:
        count: of units, U.
        network: the policy.
        batch: estimates of one update.
    """

    def __init__(self, count: int, network: Stack, batch: int) -> None:
        self.slices, self.batch = layer_slices(network), batch
        self.directions = torch.zeros(network.flat.shape[1], dtype=torch.float64)
        """Sum over batches of their gradient at length 1: its product with a unit vector is the
        sum of the cosines."""
        self.batches = 0
        self.total = torch.zeros(count, network.flat.shape[1])
        self.square = torch.zeros(len(self.slices), count, dtype=torch.float64)
        self.number = torch.zeros(count, dtype=torch.float64)

    def add(self, gradients: Float[Tensor, "n P"], unit: Tensor) -> None:
        """Fold in estimates of some units."""
        self.total.index_add_(0, unit, gradients)
        self.number.index_add_(0, unit, torch.ones(len(unit), dtype=torch.float64))
        for i, part in enumerate(self.slices):
            squares = gradients[:, part].square().sum(1).double()
            self.square[i].index_add_(0, unit, squares)
        count = len(gradients) // self.batch
        batches = gradients[: count * self.batch].view(count, self.batch, -1).mean(1)
        length = batches.norm(dim=1, keepdim=True).clamp(min=1e-30)
        self.directions += (batches / length).double().sum(0)
        self.batches += count

    def means(self) -> Float[Tensor, "U P"]:
        """Each unit's mean estimate."""
        return self.total / self.number.unsqueeze(1).to(self.total)


@dataclass(frozen=True)
class Moments:
    """Of one estimator: sums over its estimates by unit, and products of the units' sums."""

    number: Floats
    """``[U]`` estimates of each unit."""
    square: Floats
    """``[layers, U]`` sums of squared norms, by layer."""
    product: Floats
    """``[layers, U, U]`` products of sums, by layer."""

    @classmethod
    def of(cls, gathered: Gatherer) -> Moments:
        """What is kept of an estimator."""
        total = gathered.total.double()
        product = torch.stack([total[:, part] @ total[:, part].t() for part in gathered.slices])
        return cls(gathered.number.numpy(), gathered.square.numpy(), product.numpy())

    def signal(self, weight: Floats) -> Floats:
        """|E g|^2 by layer, without the bias that noise adds: products of different units only.

        Args:
            weight: ``[B, U]`` how often each unit counts; ``[B, layers]`` comes back.
        """
        count = weight * self.number
        pairs = (np.matmul(weight, self.product) * weight).sum(-1).T
        own = weight**2 @ np.diagonal(self.product, axis1=1, axis2=2).T
        share = count.sum(1) ** 2 - (count**2).sum(1)
        return np.asarray((pairs - own) / share[:, None])

    def variance(self, weight: Floats) -> Floats:
        """E|g|^2 - |E g|^2 of one estimate, by layer: ``[B, layers]``."""
        count = (weight * self.number).sum(1)[:, None]
        return np.asarray(weight @ self.square.T / count - self.signal(weight))

    def error(self) -> float:
        """Standard error of the mean estimate: root of its variance, summed over parameters."""
        count, units = self.number.sum(), len(self.number)
        whole = self.product.sum(0)
        # Units may differ in their numbers of estimates: deviations of sums from their share.
        share = self.number / count
        together = float((share**2).sum() * whole.sum()) - 2 * float(share @ whole.sum(1))
        deviation = float(np.trace(whole)) + together
        return math.sqrt(max(deviation, 0.0) * units / max(units - 1, 1)) / float(count)


@dataclass(frozen=True)
class Bias:
    """How far the mean of differences is from zero."""

    norm: float
    """sqrt of the unbiased estimate of its square; 0 where that is below 0."""
    z: float
    """Split-half t statistic, see ``bias_of``."""


def bias_of(difference: Float[Tensor, "U P"], size: float) -> Bias:
    """Whether independent differences ``[U, P]`` have mean zero, whatever P is.

    The mean of one half of the units gives a direction; along it the other half has one number per
    unit, whose mean over its standard error is a t statistic like any other. z is the mean of the
    two that the halves give each other: if there is no bias, it is above t with a chance below
    2 P(T > t), however the differences are correlated; it is positive where there is a bias.

    Args:
        difference: to a gradient that is known, or to an unbiased estimate on the same data, which
            takes out the noise that both share.
        size: of the gradients; differences of its rounding are none.
    """
    count = len(difference)
    rows = difference.double()
    product = (rows @ rows.t()).numpy()
    if np.sqrt(np.trace(product) / count) <= ROUNDING * size:
        return Bias(0.0, 0.0)
    square = (product.sum() - np.trace(product)) / (count * (count - 1))
    first, second = np.arange(0, count, 2), np.arange(1, count, 2)
    halves = [(first, second), (second, first)]
    z = [_t(product[np.ix_(a, b)].mean(0)) for a, b in halves]
    return Bias(math.sqrt(max(square, 0.0)), sum(z) / 2)


def _t(numbers: Floats) -> float:
    """Mean over its standard error, at most ``LARGEST``."""
    error, mean = numbers.std(ddof=1) / math.sqrt(len(numbers)), float(numbers.mean())
    if abs(mean) >= LARGEST * error:
        return math.copysign(LARGEST, mean) if mean else 0.0
    return mean / float(error)


def found_from(count: int) -> float:
    """Least z of ``bias_of`` at which a bias counts as found: by luck once in 10^6 rows.

    Args:
        count: of independent differences; the smaller half has half of them, rounded down.
    """
    return student(max(count // 2 - 1, 1), LUCK / 2)


def student(freedom: int, chance: float) -> float:
    """Upper quantile t of Student's distribution, P(T > t) = chance.

    With T = sqrt(freedom) tan(angle) the angle's density is cos(angle)^(freedom - 1), up to a
    factor; it is summed over a grid.

    Args:
        freedom: degrees of it.
        chance: below 1/2; at 1 or 2 degrees no smaller than 1e-4, for the grid's sake.
    """
    angle = np.linspace(math.pi / 2, 0, 200_001)
    density = np.cos(angle) ** (freedom - 1)
    tail = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    found = np.interp(chance, tail / (2 * tail[-1]), angle)
    return math.sqrt(freedom) * math.tan(float(found))
