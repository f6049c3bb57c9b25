"""The oracle: the gradient itself, by enumerating every joint choice."""

from __future__ import annotations

import itertools

import torch
from jaxtyping import Float
from torch import Tensor

from rlgrad.estimators.base import Draw, Estimator, Objective
from rlgrad.estimators.objective import needed, one_each
from rlgrad.estimators.traits import Traits

MOST_CHOICES = 1 << 16


def exact_gradient(
    logits: Float[Tensor, "*batch D A"], f: Objective
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch D A"]]:
    """E[f] and d E[f] / d logits as sums over all A^D choices.

    Args:
        logits: ``[*batch, D, A]``; masked categories (-inf) are skipped.
        f: called once for every joint choice with one-hot ``[*batch, D, A]``.

    Returns:
        ``[*batch]`` and ``[*batch, D, A]``.

    Raises:
        ValueError: if there are more than 65,536 joint choices.
    """
    factors, categories = logits.shape[-2:]
    if categories**factors > MOST_CHOICES:
        raise ValueError(
            f"got {factors} factors of {categories} categories, {categories}^{factors} choices; "
            f"exact enumerates at most {MOST_CHOICES:,}: use a sampling estimator"
        )
    log_p = logits.detach().log_softmax(-1)
    p = log_p.exp()
    mean, gradient = torch.zeros_like(p[..., 0, 0]), torch.zeros_like(p)
    eye = torch.eye(categories, dtype=p.dtype, device=p.device)
    index = torch.arange(factors, device=p.device)
    for choice in itertools.product(range(categories), repeat=factors):
        hot = eye[list(choice)].expand_as(p)
        weight = log_p[..., index, list(choice)].sum(-1).exp()
        with torch.no_grad():
            value = torch.where(weight > 0, one_each(f(hot), hot), 0.0)
        mean = mean + weight * value
        gradient = gradient + (weight * value)[..., None, None] * (hot - p)
    return mean, gradient


class Exact(Estimator):
    """sum over all choices of f(b) p(b) score(b); zero variance, for objectives small enough."""

    traits = Traits(unbiased=True, enumerable=True)
    source = "definition of the expectation"

    def gradient(
        self,
        draw: Draw,
        value: Float[Tensor, "*batch"],
        *,
        context: Tensor | None = None,
        f: Objective | None = None,
    ) -> Float[Tensor, "*batch D A"]:
        """The gradient itself; needs ``f``, which the draw and its value do not replace."""
        return exact_gradient(draw.logits, needed(f, "exact", "reinforce"))[1]
