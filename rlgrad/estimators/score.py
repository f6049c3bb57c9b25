"""Score-function estimators (value - baseline) x score: they differ in the baseline alone."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from rlgrad.estimators.base import Draw, Estimator, Objective, score
from rlgrad.estimators.pooling import Chain
from rlgrad.estimators.statistics import RunningMean, seed_rows
from rlgrad.estimators.traits import Traits


class Reinforce(Estimator):
    """f(b) x score: the plain score-function estimator."""

    traits = Traits(unbiased=True)
    source = "Williams 1992, doi:10.1007/BF00992696"

    def gradient(
        self,
        draw: Draw,
        value: Float[Tensor, "*batch"],
        *,
        context: Tensor | None = None,
        f: Objective | None = None,
    ) -> Float[Tensor, "*batch D A"]:
        """``[*batch, D, A]``; see ``Estimator.gradient``."""
        return value.detach()[..., None, None] * score(draw)


Kind = Literal["mean", "optimal", "optimal-per-logit"]


class Constant(Estimator):
    """(f(b) - c) x score with a constant c estimated on earlier values.

    Args:
        factors: D.
        categories: A.
        context: ignored; a constant sees no state.
        seeds: S.
        constant: "mean": the running mean of f. "optimal": the scalar of least variance,
            E[f |s|^2] / E[|s|^2]. "optimal-per-logit": one per logit, Cov[f s_i, s_i] / Var[s_i].
        decay: weight of the past per ``observe``; 1 averages the whole past evenly.
    """

    traits = Traits(unbiased=True)
    source = "Greensmith, Bartlett & Baxter 2004, JMLR 5:1471"

    def __init__(
        self,
        factors: int,
        categories: int,
        context: int = 0,
        seeds: int | None = None,
        *,
        constant: Kind = "mean",
        decay: float = 0.99,
    ) -> None:
        super().__init__(factors, categories, context, seeds)
        if constant not in get_args(Kind):
            raise ValueError(f"constant {constant!r} is not one of {', '.join(get_args(Kind))}")
        self.constant = constant
        width = {"mean": 1, "optimal": 2, "optimal-per-logit": 4 * factors * categories}[constant]
        self.moments = RunningMean(width, seeds or 1, decay)

    def _constant(self, draw: Draw) -> Tensor:
        """c, broadcastable to ``[S, rows, D, A]``; zero before anything was observed."""
        mean = self.moments.mean[:, None, :]
        if self.constant == "mean":
            return mean[..., None]
        if self.constant == "optimal":
            return (mean[..., :1] / mean[..., 1:].clamp(min=1e-12))[..., None]
        shape = (4, self.factors, self.categories)
        weighted_square, weighted, square, plain = mean.unflatten(-1, shape).unbind(-3)
        variance = square - plain**2
        # Where all scores are alike, any constant does, and the quotient is of rounding.
        known = variance > 1e-4 * square
        return torch.where(known, (weighted_square - weighted * plain) / variance, 0.0)

    def gradient(
        self,
        draw: Draw,
        value: Float[Tensor, "*batch"],
        *,
        context: Tensor | None = None,
        f: Objective | None = None,
    ) -> Float[Tensor, "*batch D A"]:
        """``[*batch, D, A]``; see ``Estimator.gradient``."""
        rows = seed_rows(value.detach(), self.seeds)[..., None, None]
        centred = (rows - self._constant(draw).to(rows)).expand(-1, -1, *draw.logits.shape[-2:])
        return centred.reshape(draw.logits.shape) * score(draw)

    def observing(
        self,
        draw: Draw,
        value: Float[Tensor, "*batch"],
        *,
        context: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Chain:
        """Fold this batch into the running moments that c is made of."""
        v, s = value[..., None], score(draw)
        if self.constant == "mean":
            moments = v
        elif self.constant == "optimal":
            square = (s * s).sum((-2, -1)).unsqueeze(-1)
            moments = torch.cat([v * square, square], -1)
        else:
            flat = s.flatten(-2)
            moments = torch.cat([v * flat * flat, v * flat, flat * flat, flat], -1)
        self.moments.take((yield self.moments.batch(moments, weight)))

    def rescale(self, factor: Float[Tensor, "S 1"]) -> None:
        """Multiply the moments that are linear in f."""
        mean = self.moments.mean
        linear = {"mean": 1, "optimal": 1, "optimal-per-logit": mean.shape[1] // 2}[self.constant]
        mean[:, :linear] *= factor
