"""Estimators that sum over all actions of a learned q, alone or as a control variate.

    sum over a of p(a) q(a) score(a) = p * (q - p.q) = d/dl E[q]

is a finite sum, so it has no variance. q sees the context and is additive over factors: it gives
``[*batch, D, A]`` numbers, and predicts f by sum_d q_d(b_d).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlgrad.estimators.base import Draw, Estimator, Objective, features, score
from rlgrad.estimators.learned import Fit, checked_fit
from rlgrad.estimators.networks import SeedMLP
from rlgrad.estimators.statistics import variance_loss, weighted_mean
from rlgrad.estimators.traits import Traits


class ActionValue(nn.Module):
    """q(x): one number for each category of each factor.

    Args:
        factors: D.
        categories: A.
        context: C; 0 makes q a trained table.
        seeds: S.
        hidden: widths of the hidden layers.
        scale: what the output is multiplied by, so that q starts at the size of f.
    """

    def __init__(
        self,
        factors: int,
        categories: int,
        context: int,
        seeds: int,
        *,
        hidden: tuple[int, ...],
        scale: float,
    ) -> None:
        super().__init__()
        self.shape, self.scale = (factors, categories), scale
        self.network = SeedMLP(context, factors * categories, hidden, seeds, head_gain=0.0)

    def forward(
        self, context: Tensor | None, like: Float[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch D A"]:
        """Q ``[*batch, D, A]``, attached to its parameters."""
        return self.scale * self.network(features(context, like)).unflatten(-1, self.shape)


def predicted(q: Float[Tensor, "*batch D A"], draw: Draw) -> Float[Tensor, "*batch"]:
    """What q says of the value: sum_d q_d(b_d)."""
    return q.gather(-1, draw.action.unsqueeze(-1)).squeeze(-1).sum(-1)


def summed(q: Float[Tensor, "*batch D A"], draw: Draw) -> Float[Tensor, "*batch D A"]:
    """The gradient of E[sum_d q_d(b_d)] at the logits: p * (q - p.q) for each factor."""
    p = draw.logits.detach().softmax(-1)
    return p * (q - (p * q).sum(-1, keepdim=True))


class AllAction(Estimator):
    """p * (q - p.q) with a learned q, regressed on the value: no variance but that of q.

    Biased as far as q is wrong. With several independent factors the additive q of least squared
    error is E[f | b_d = a] up to a constant per factor, which falls out, so that at this optimum
    the estimate is the gradient itself, however f joins the factors.

    Args:
        factors: D.
        categories: A.
        context: C, features that q sees; 0 makes q a trained table.
        seeds: S.
        hidden: widths of q's hidden layers.
        scale: what q's output is multiplied by, so that q starts at the size of f.
    """

    traits = Traits(unbiased=False, context=True, trained=True)
    source = (
        "Allen, Asadi, Roderick, Mohamed, Konidaris & Littman 2017 (Mean Actor-Critic), "
        "arXiv:1709.00503; Ciosek & Whiteson 2018 (expected policy gradients), arXiv:1706.05374"
    )

    def __init__(
        self,
        factors: int,
        categories: int,
        context: int = 0,
        seeds: int | None = None,
        *,
        hidden: tuple[int, ...] = (32, 32),
        scale: float = 1.0,
    ) -> None:
        super().__init__(factors, categories, context, seeds)
        self.q = ActionValue(factors, categories, context, seeds or 1, hidden=hidden, scale=scale)

    @torch.no_grad()
    def gradient(
        self,
        draw: Draw,
        value: Float[Tensor, "*batch"],
        *,
        context: Tensor | None = None,
        f: Objective | None = None,
    ) -> Float[Tensor, "*batch D A"]:
        """``[*batch, D, A]``, whatever the action and its value; see ``Estimator.gradient``."""
        return summed(self.q(context, value), draw)

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
        """Half the squared error of sum_d q_d(b_d)."""
        error = value.detach() - predicted(self.q(context, value), draw)
        return weighted_mean(0.5 * error**2, weight, self.seeds)

    def rescale(self, factor: Float[Tensor, "S 1"]) -> None:
        """Multiply q."""
        self.q.network.rescale(factor)


class AllActionControl(Estimator):
    """(f(b) - sum_d q_d(b_d)) x score + p * (q - p.q): unbiased for any q, with f once.

    A control variate whose expectation is an exact finite sum: what the first term takes away in
    the mean, the second gives back.

    Args:
        factors: D.
        categories: A.
        context: C, features that q sees; 0 makes q a trained table.
        seeds: S.
        hidden: widths of q's hidden layers.
        scale: what q's output is multiplied by, so that q starts at the size of f.
        objective: "variance": q descends the squared norm of the estimate. "regression": q
            descends the squared error of sum_d q_d(b_d).
    """

    traits = Traits(unbiased=True, context=True, trained=True, control_variate=True)
    source = "Gu, Lillicrap, Ghahramani, Turner & Levine 2017 (Q-Prop), arXiv:1611.02247"

    def __init__(
        self,
        factors: int,
        categories: int,
        context: int = 0,
        seeds: int | None = None,
        *,
        hidden: tuple[int, ...] = (32, 32),
        scale: float = 1.0,
        objective: Fit = "variance",
    ) -> None:
        super().__init__(factors, categories, context, seeds)
        self.on_variance = checked_fit(objective)
        self.q = ActionValue(factors, categories, context, seeds or 1, hidden=hidden, scale=scale)

    @property
    def descends_variance(self) -> bool:
        """Where that is the objective."""
        return self.on_variance

    def _estimate(self, draw: Draw, left: Float[Tensor, "*batch"], q: Tensor) -> Tensor:
        """U ``[*batch, D, A]``, attached to q."""
        return left[..., None, None] * score(draw) + summed(q, draw)

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
        q = self.q(context, value)
        return self._estimate(draw, value - predicted(q, draw), q)

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
        """The squared norm of the estimate, or half the squared error of sum_d q_d(b_d)."""
        q = self.q(context, value)
        left = value.detach() - predicted(q, draw)
        if self.on_variance:
            return variance_loss(self._estimate(draw, left, q), direction, weight, self.seeds)
        return weighted_mean(0.5 * left**2, weight, self.seeds)

    def rescale(self, factor: Float[Tensor, "S 1"]) -> None:
        """Multiply q."""
        self.q.network.rescale(factor)
