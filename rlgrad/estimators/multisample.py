"""Estimators that take several values of f for one choice: each draw is the others' baseline."""

from __future__ import annotations

import functools

import torch
from jaxtyping import Float
from torch import Tensor

from rlgrad.estimators.base import Draw, Estimator, Objective, one_hot, score
from rlgrad.estimators.traits import Traits


def _mean(x: Float[Tensor, "K *shape"]) -> Float[Tensor, "*shape"]:
    """Mean over K, one addition after the other: the same bits whatever the batch."""
    return functools.reduce(torch.add, x.unbind(0)) / x.shape[0]


class LeaveOneOut(Estimator):
    """Mean over K draws of (f_k - mean of the other f) x score_k: each draw has a free baseline.

    K values of f buy one estimate: compare it with others at equal numbers of evaluations.

    Args:
        factors: D.
        categories: A.
        context: ignored; the baseline is made of values at the same logits.
        seeds: S.
        draws: K, at least 2.
    """

    traits = Traits(unbiased=True, values=2)
    source = (
        "Kool, van Hoof & Welling 2019, Buy 4 REINFORCE samples, get a baseline for free!, "
        "ICLR workshop on Deep RL Meets Structured Prediction"
    )

    def __init__(
        self,
        factors: int,
        categories: int,
        context: int = 0,
        seeds: int | None = None,
        *,
        draws: int = 2,
    ) -> None:
        super().__init__(factors, categories, context, seeds)
        if draws < 2:
            raise ValueError(f"got draws {draws}; expected at least 2, or use reinforce")
        self.draws = draws

    @property
    def values(self) -> int:
        """K, as built."""
        return self.draws

    @torch.no_grad()
    def gradient(
        self,
        draw: Draw,
        value: Float[Tensor, "K *batch"],
        *,
        context: Tensor | None = None,
        f: Objective | None = None,
    ) -> Float[Tensor, "*batch D A"]:
        """``[*batch, D, A]``; see ``Estimator.gradient``."""
        K = self.draws
        # f_k - mean of the others = (f_k - mean of all) K / (K - 1)
        left = (value - _mean(value)) * (K / (K - 1))
        return _mean(left[..., None, None] * score(draw))


class Disarm(Estimator):
    """(f(b) - f(b')) (b - b') max(p) / 2 with an antithetic b': binary factors, two values of f.

    With logistic noise b' takes the opposite sign of b's, so that it has the same distribution and
    differs from b as often as it can. In the Gumbel form of two categories the noise of one logit
    is exchanged with that of the other. Where both draws agree in a factor, its estimate is 0. The
    weight is sigmoid(|l|), which is the larger of the two probabilities; b is one-hot, so the
    second logit gets what the single logit l has, and the first its negative.

    Args:
        factors: D, each of two categories.
        categories: 2.
        context: ignored.
        seeds: S.
    """

    traits = Traits(unbiased=True, values=2, binary=True, antithetic=True)
    source = (
        "Dong, Mnih & Tucker 2020, arXiv:2006.10680; "
        "Yin, Ho, Yan, Qian & Zhou 2020 (U2G), arXiv:2006.06448"
    )

    @torch.no_grad()
    def gradient(
        self,
        draw: Draw,
        value: Float[Tensor, "2 *batch"],
        *,
        context: Tensor | None = None,
        f: Objective | None = None,
    ) -> Float[Tensor, "*batch D 2"]:
        """``[*batch, D, 2]``; see ``Estimator.gradient``."""
        gap = 0.5 * (value[0] - value[1])[..., None, None]
        first, second = one_hot(draw)
        larger = draw.logits[0].softmax(-1).amax(-1, keepdim=True)
        return gap * (first - second) * larger
