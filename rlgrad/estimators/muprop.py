"""MuProp: a first-order Taylor expansion of f around the mean choice as control variate."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from rlgrad.estimators.base import Draw, Estimator, Objective, one_hot, score
from rlgrad.estimators.noise import through_softmax
from rlgrad.estimators.objective import needed, slope
from rlgrad.estimators.traits import Traits


class MuProp(Estimator):
    """(f(b) - f(p) - f'(p).(e_b - p)) score + (diag p - p p^T) f'(p).

    The dot product runs over all factors. f(b) is the value as given and f serves the expansion
    alone, so the mean is right whatever f is: in reinforcement learning the value is the return
    and f a learned critic. Zero variance where f is linear and the value is f's.
    """

    traits = Traits(unbiased=True, differentiable=True, control_variate=True)
    source = "Gu et al. 2016, arXiv:1511.05176"

    def gradient(
        self,
        draw: Draw,
        value: Float[Tensor, "*batch"],
        *,
        context: Tensor | None = None,
        f: Objective | None = None,
    ) -> Float[Tensor, "*batch D A"]:
        """``[*batch, D, A]``; see ``Estimator.gradient``."""
        p = draw.logits.detach().softmax(-1)
        at_mean, at_p = slope(needed(f, "muprop", "relax"), p, "muprop")
        at_p = torch.where(draw.logits.isneginf(), 0.0, at_p)
        taylor = at_mean + (at_p * (one_hot(draw) - p)).sum((-2, -1))
        return (value.detach() - taylor)[..., None, None] * score(draw) + through_softmax(p, at_p)
