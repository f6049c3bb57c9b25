"""Biased estimators that differentiate f itself, through a relaxation of the choice.

They see f' at one point and take it for the differences f(b) - f(b'). As the temperature falls to
zero the mean of ``gumbel-softmax`` becomes the gradient for every smooth f; that of
``straight-through`` and ``gumbel-rao`` becomes the trapezoidal rule

    sum_b p_b p_j (f'(e_b) + f'(e_j)).(e_j - e_b) / 2     at logit j of one factor,

which is the gradient where f is at most quadratic between the choices of a factor, and in general
is not. ``reinmax`` has this mean at temperature 1. The variance of the others grows as
1 / temperature.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import reduce
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from rlgrad.estimators import noise
from rlgrad.estimators.base import Draw, Estimator, Objective, one_hot
from rlgrad.estimators.noise import through_softmax
from rlgrad.estimators.objective import needed, slope
from rlgrad.estimators.traits import Traits


class Relaxed(Estimator):
    """What the members share: a temperature, and f' at one point.

    ``estimate`` returns f at the sampled choice, as for every estimator; who wants f at the relaxed
    choice calls f there.

    Args:
        factors: D.
        categories: A.
        context: ignored.
        seeds: S; nothing is kept between calls, so it has no effect.
        temperature: of the softmax; higher is smoother, less noisy and more biased.
    """

    name: ClassVar[str]

    def __init__(
        self,
        factors: int,
        categories: int,
        context: int = 0,
        seeds: int | None = None,
        *,
        temperature: float = 0.5,
    ) -> None:
        super().__init__(factors, categories, context, seeds)
        if not temperature > 0:
            raise ValueError(f"got temperature {temperature}; expected above 0")
        self.temperature = temperature

    def gradient(
        self,
        draw: Draw,
        value: Float[Tensor, "*batch"],
        *,
        context: Tensor | None = None,
        f: Objective | None = None,
    ) -> Float[Tensor, "*batch D A"]:
        """``[*batch, D, A]``; see ``Estimator.gradient``. The value is not used."""
        draw = draw._replace(logits=draw.logits.detach())
        f = needed(f, self.name, "relax")
        return self._pulled(draw, lambda x: slope(f, x, self.name)[1])

    @abstractmethod
    def _pulled(self, draw: Draw, derivative: Callable[[Tensor], Tensor]) -> Tensor:
        """``derivative`` (f' at a point ``[*batch, D, A]``) pulled back to the logits."""

    def _soft(self, z: Tensor) -> Tensor:
        return (z / self.temperature).softmax(-1)


class GumbelSoftmax(Relaxed):
    """d/dl f(softmax((l + G) / temperature)): f at a relaxed choice (the Concrete distribution).

    Takes ``temperature``, see ``Relaxed``.
    """

    name = "gumbel-softmax"
    traits = Traits(unbiased=False, differentiable=True)
    source = "Jang, Gu & Poole 2017, arXiv:1611.01144; Maddison, Mnih & Teh 2017, arXiv:1611.00712"

    def _pulled(self, draw: Draw, derivative: Callable[[Tensor], Tensor]) -> Tensor:
        y = self._soft(noise.relaxed(draw.logits, draw.gumbel))
        return through_softmax(y, derivative(y)) / self.temperature


class StraightThrough(Relaxed):
    """f' at the choice, pulled back through softmax((l + G) / temperature).

    Takes ``temperature``, see ``Relaxed``.
    """

    name = "straight-through"
    traits = Traits(unbiased=False, differentiable=True, one_pass=True)
    source = (
        "Bengio, Leonard & Courville 2013, arXiv:1308.3432; Jang, Gu & Poole 2017, arXiv:1611.01144"
    )

    def _pulled(self, draw: Draw, derivative: Callable[[Tensor], Tensor]) -> Tensor:
        y = self._soft(noise.relaxed(draw.logits, draw.gumbel))
        return through_softmax(y, derivative(one_hot(draw))) / self.temperature


class GumbelRao(Relaxed):
    """Straight-through averaged over relaxed choices given the action: less noise, the same mean.

    Args:
        factors: D.
        categories: A.
        context: ignored.
        seeds: S; nothing is kept between calls, so it has no effect.
        temperature: of the softmax; higher is smoother, less noisy and more biased.
        draws: K relaxed choices per estimate; f is differentiated once.
    """

    name = "gumbel-rao"
    traits = Traits(unbiased=False, differentiable=True, one_pass=True)
    source = "Paulus, Maddison & Krause 2021, arXiv:2010.04838"

    def __init__(
        self,
        factors: int,
        categories: int,
        context: int = 0,
        seeds: int | None = None,
        *,
        temperature: float = 0.5,
        draws: int = 10,
    ) -> None:
        super().__init__(factors, categories, context, seeds, temperature=temperature)
        if draws < 1:
            raise ValueError(f"got draws {draws}; expected at least 1")
        self.draws = draws

    @property
    def relaxations(self) -> int:
        """K."""
        return self.draws

    def _pulled(self, draw: Draw, derivative: Callable[[Tensor], Tensor]) -> Tensor:
        at_choice = derivative(one_hot(draw))
        second = draw.second.reshape(self.draws, *draw.logits.shape)
        y = self._soft(noise.relaxed_given_action(draw.logits, draw.action, second))
        each = through_softmax(y, at_choice)
        # One after another: a sum over an axis in front gives a seed other bits in company.
        return reduce(torch.add, each.unbind()) / (self.draws * self.temperature)


class ReinMax(Relaxed):
    """Straight-through by Heun's second-order rule; exact where f is at most quadratic.

    2 J(q)^T f'(e_b) - J(p)^T f'(e_b) / 2 with J(q) = diag q - q q^T at the midpoint
    q = (e_b + softmax(l / temperature)) / 2, exact at temperature 1.

    Args:
        factors: D.
        categories: A.
        context: ignored.
        seeds: S; nothing is kept between calls, so it has no effect.
        temperature: of the softmax in q; above 1 is less noisy and more biased.
    """

    name = "reinmax"
    traits = Traits(unbiased=False, differentiable=True)
    source = "Liu et al. 2023, arXiv:2304.08612"

    def __init__(
        self,
        factors: int,
        categories: int,
        context: int = 0,
        seeds: int | None = None,
        *,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(factors, categories, context, seeds, temperature=temperature)

    def _pulled(self, draw: Draw, derivative: Callable[[Tensor], Tensor]) -> Tensor:
        hot = one_hot(draw)
        at_choice, p = derivative(hot), draw.logits.softmax(-1)
        middle = (hot + self._soft(draw.logits)) / 2
        return 2 * through_softmax(middle, at_choice) - through_softmax(p, at_choice) / 2
