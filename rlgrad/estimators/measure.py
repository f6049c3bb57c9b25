"""Mean, bias, variance and signal-to-noise of an estimator, by many draws at the same logits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from rlgrad.estimators.base import Estimator, Objective
from rlgrad.estimators.objective import values_at


class Measurement(NamedTuple):
    """Statistics of the estimate at fixed logits ``[D, A]``."""

    mean: Float[Tensor, "D A"]
    standard_error: Float[Tensor, "D A"]
    """Of the mean."""
    variance: float
    """Total: summed over logits, of one estimate."""
    value: float
    """Mean of f."""
    evaluations: int
    """Values of f that were computed for one estimate, those at its own draws included."""

    @property
    def signal_to_noise(self) -> float:
        """|mean|^2 / variance of one estimate."""
        return float(self.mean.square().sum()) / self.variance if self.variance else float("inf")

    @property
    def work_normalised_variance(self) -> float:
        """Variance x evaluations: the variance of the mean for a budget of one value of f.

        Estimators that take several values of f are compared by it.
        """
        return self.variance * self.evaluations

    def z_scores(self, reference: Float[Tensor, "D A"]) -> Float[Tensor, "D A"]:
        """(mean - reference) / standard error; where the error is zero, 0 or infinity."""
        gap = self.mean - reference
        rounding = 1e-9 * (1 + reference.abs())
        exact = torch.where(gap.abs() <= rounding, 0.0, torch.inf)
        return torch.where(self.standard_error > rounding, gap / self.standard_error, exact)


class _Counted:
    """An objective that counts the rows at which it was asked for a value."""

    def __init__(self, f: Objective) -> None:
        self.f, self.rows = f, 0

    def __call__(self, x: Tensor) -> Tensor:
        self.rows += x[..., 0, 0].numel()
        return self.f(x)


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
    if draws < 2 or logits.ndim != 2:
        raise ValueError(
            f"got {draws} draws at logits of shape {list(logits.shape)}; "
            "expected at least 2 draws, at logits [D, A]"
        )
    total, square = torch.zeros_like(logits).double(), torch.zeros_like(logits).double()
    value_total, counted = 0.0, _Counted(f)
    for start in range(0, draws, chunk):
        n = min(chunk, draws - start)
        repeated = logits.expand(n, *logits.shape)
        features = None if context is None else context.expand(n, *context.shape)
        draw = estimator.sample(repeated, generator=generator)
        value = values_at(estimator, draw, counted)
        u = estimator.gradient(draw, value, context=features, f=counted).double()
        total, square = total + u.sum(0), square + (u * u).sum(0)
        value_total += float(value.double().mean()) * n
    mean = total / draws
    variance = ((square / draws - mean**2) * (draws / (draws - 1))).clamp(min=0.0)
    return Measurement(
        mean,
        (variance / draws).sqrt(),
        float(variance.sum()),
        value_total / draws,
        counted.rows // draws,
    )
