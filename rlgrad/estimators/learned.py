"""A learned baseline: (value - V(x)) x score, V fitted by squared error or on the variance."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from rlgrad.errors import UsageError
from rlgrad.estimators.base import Draw, Estimator, Objective, features, score
from rlgrad.estimators.networks import SeedMLP
from rlgrad.estimators.pooling import Chain
from rlgrad.estimators.statistics import (
    RunningMean,
    live_rows,
    row_share,
    variance_loss,
    weighted_mean,
)
from rlgrad.estimators.traits import Traits

Fit = Literal["regression", "variance"]


def checked_fit(objective: str) -> bool:
    """Whether an objective is the variance.

    Raises:
        ValueError: where it is neither of ``Fit``.
    """
    if objective not in get_args(Fit):
        raise ValueError(f"objective {objective!r} is not one of {', '.join(get_args(Fit))}")
    return objective == "variance"


class Learned(Estimator):
    """(f(b) - V(x)) x score with V fitted by squared error (NVIL), or on the gradient's variance.

    Args:
        factors: D.
        categories: A.
        context: C, the width of the input x that V sees; 0 fits one trained constant.
        seeds: S.
        hidden: widths of V's hidden layers.
        scale: what V's output is multiplied by, so that V starts at the size of f.
        objective: "regression": V descends (f - V)^2 and becomes E[f | x]. "variance": V descends
            the squared norm of the estimate; at the logits it becomes E[f |s|^2] / E[|s|^2].
        per_logit: V has one output per logit, V_i for s_i, which becomes E[f s_i^2] / E[s_i^2];
            only on the variance, since by regression all outputs would be the same.
        centre: also subtract a running mean of f - V; goes with regression.
        normalise: also divide by max(1, running deviation of f - V), which rescales the gradient;
            goes with regression.
        decay: weight of the past in these two.
    """

    traits = Traits(unbiased=True, context=True, trained=True)
    source = "Mnih & Gregor 2014, arXiv:1402.0030"

    def __init__(
        self,
        factors: int,
        categories: int,
        context: int = 0,
        seeds: int | None = None,
        *,
        hidden: tuple[int, ...] = (32, 32),
        scale: float = 1.0,
        objective: Fit = "regression",
        per_logit: bool = False,
        centre: bool = False,
        normalise: bool = False,
        decay: float = 0.8,
    ) -> None:
        super().__init__(factors, categories, context, seeds)
        self.on_variance, self.per_logit = checked_fit(objective), per_logit
        if per_logit and not self.on_variance:
            raise UsageError(
                "one baseline per logit is trained on the variance only: by regression all would "
                "be the same; say objective='variance' (--fit variance), or leave out per_logit"
            )
        if (centre or normalise) and self.on_variance:
            raise UsageError(
                "centre and normalise belong to a baseline fitted by regression; "
                "leave them out, or say objective='regression' (--fit regression)"
            )
        outputs = factors * categories if per_logit else 1
        self.baseline = SeedMLP(context, outputs, hidden, seeds or 1, head_gain=0.0)
        self.scale, self.centre, self.normalise = scale, centre, normalise
        self.moments = RunningMean(2, seeds or 1, decay)

    @property
    def descends_variance(self) -> bool:
        """Where that is the objective."""
        return self.on_variance

    def predict(self, context: Tensor | None, like: Float[Tensor, "*batch"]) -> Tensor:
        """V(x) ``[*batch]``, or ``[*batch, D, A]`` with one per logit; attached to V."""
        v = self.scale * self.baseline(features(context, like))
        if self.per_logit:
            return v.unflatten(-1, (self.factors, self.categories))
        return v.squeeze(-1)

    def _left(self, value: Float[Tensor, "*batch"], context: Tensor | None) -> Tensor:
        """What V leaves of f: ``[*batch, 1, 1]``, or ``[*batch, D, A]`` with one V per logit."""
        v = self.predict(context, value)
        return value.detach()[..., None, None] - (v if self.per_logit else v[..., None, None])

    @torch.no_grad()
    def gradient(
        self,
        draw: Draw,
        value: Float[Tensor, "*batch"],
        *,
        context: Tensor | None = None,
        f: Objective | None = None,
    ) -> Float[Tensor, "*batch D A"]:
        """``[*batch, D, A]``; see ``Estimator.gradient``."""
        left = self._left(value, context)
        if self.centre or self.normalise:
            rows = left.reshape(self.seeds or 1, -1)
            mean, square = self.moments.mean.to(rows).split(1, dim=1)
            if self.centre:
                rows = rows - mean
            if self.normalise:
                rows = rows / (square - mean**2).clamp(min=1.0).sqrt()
            left = rows.reshape(left.shape)
        return left * score(draw)

    def loss(
        self,
        draw: Draw,
        value: Float[Tensor, "*batch"],
        *,
        context: Tensor | None = None,
        f: Objective | None = None,
        direction: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Float[Tensor, ""]:
        """Half the squared error of V, or the squared norm of the estimate."""
        left = self._left(value, context)
        if self.on_variance:
            return variance_loss(left * score(draw), direction, weight, self.seeds)
        return weighted_mean(0.5 * left[..., 0, 0] ** 2, weight, self.seeds)

    @torch.no_grad()
    def loss_gradients(self, draw: Draw, value: Tensor, **given: Any) -> list[Tensor]:
        """Of ``loss``; by regression without autograd, which takes several times as long."""
        if self.on_variance:
            return super().loss_gradients(draw, value, **given)
        share = row_share(value, given.get("weight"), self.seeds)
        live = live_rows(share, self.seeds)
        trace = self.baseline.blocks(features(given.get("context"), value), live=live)
        rows = *trace.output.shape[:2], 1
        error = self.scale * trace.output[..., :1] - value.reshape(rows)
        return [trace.parameters(self.scale * error * share.reshape(rows))]

    def observing(
        self,
        draw: Draw,
        value: Float[Tensor, "*batch"],
        *,
        context: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Chain:
        """Fold f - V into the running mean and deviation, where they are used."""
        if self.centre or self.normalise:
            error = self._left(value, context)[..., 0, 0]
            moments = torch.stack([error, error**2], -1)
            self.moments.take((yield self.moments.batch(moments, weight)))

    @torch.no_grad()
    def rescale(self, factor: Float[Tensor, "S 1"]) -> None:
        """Multiply V, and the moments of what it leaves by their powers."""
        self.baseline.rescale(factor)
        self.moments.mean *= torch.cat([factor, factor * factor], 1)
