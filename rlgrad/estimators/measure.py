"""Mean, bias, variance and signal-to-noise of an estimator, by many draws at the same logits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from rlgrad.estimators.base import Estimator, Objective, one_hot


class Measurement(NamedTuple):
    """Statistics of the estimate at fixed logits ``[D, A]``."""

    mean: Float[Tensor, "D A"]
    standard_error: Float[Tensor, "D A"]
    """Of the mean."""
    variance: float
    """Total: summed over logits, of one estimate."""
    value: float
    """Mean of f."""

    @property
    def signal_to_noise(self) -> float:
        """|mean|^2 / variance of one estimate."""
        return float(self.mean.square().sum()) / self.variance if self.variance else float("inf")

    def z_scores(self, reference: Float[Tensor, "D A"]) -> Float[Tensor, "D A"]:
        """(mean - reference) / standard error; where the error is zero, 0 or infinity."""
        gap = self.mean - reference
        rounding = 1e-9 * (1 + reference.abs())
        exact = torch.where(gap.abs() <= rounding, 0.0, torch.inf)
        return torch.where(self.standard_error > rounding, gap / self.standard_error, exact)


@torch.no_grad()
def measure(
    estimator: Estimator,
    logits: Float[Tensor, "D A"],
    f: Objective,
    draws: int,
    *,
    context: Float[Tensor, " C"] | None = None,
    generator: torch.Generator | None = None,
    chunk: int = 1 << 16,
) -> Measurement:
    """Draw ``draws`` estimates of d E[f] / d logits at fixed parameters and summarise them.

    Args:
        estimator: built without ``seeds``; neither its parameters nor its statistics change.
        logits: ``[D, A]``.
        f: takes ``[n, D, A]`` and returns ``[n]``; may be noisy.
        draws: how many estimates.
        context: ``[C]``, shared by all draws.
        generator: source of noise.
        chunk: estimates in memory at a time.
    """
    total, square = torch.zeros_like(logits).double(), torch.zeros_like(logits).double()
    value_total = 0.0
    for start in range(0, draws, chunk):
        n = min(chunk, draws - start)
        repeated = logits.expand(n, *logits.shape)
        features = None if context is None else context.expand(n, *context.shape)
        draw = estimator.sample(repeated, generator=generator)
        choice = one_hot(draw)
        if estimator.traits.values == 1:
            value = f(choice)
        else:
            value = torch.stack([f(each) for each in choice])
        u = estimator.gradient(draw, value, context=features, f=f).double()
        total, square = total + u.sum(0), square + (u * u).sum(0)
        value_total += float(value.double().mean()) * n
    mean = total / draws
    variance = ((square / draws - mean**2) * (draws / (draws - 1))).clamp(min=0.0)
    return Measurement(mean, (variance / draws).sqrt(), float(variance.sum()), value_total / draws)
