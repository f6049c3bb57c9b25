"""RELAX: a free-form control variate of the relaxed choice, trained on the gradient's variance.

    u = (f(b) - c(z~)) score(b) + d/dl c(z) - d/dl c(z~)

Its mean is the gradient for any c, so c may be any smooth function.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlgrad.estimators.base import Draw, Estimator, Objective
from rlgrad.estimators.control import ControlVariate
from rlgrad.estimators.relaxation import (
    Coupling,
    checked,
    controlled,
    squared_norm,
    terms,
)
from rlgrad.estimators.statistics import row_share, weighted_mean
from rlgrad.estimators.traits import Traits


class Relax(Estimator):
    """(f(b) - c(z~)) score + d/dl c(z) - d/dl c(z~) with a trained control variate c.

    Args:
        factors: D.
        categories: A.
        context: C, features that c sees beside the relaxed choice.
        seeds: S.
        hidden: widths of c's hidden layers.
        activation: of c; see ``ControlVariate``.
        temperature: of the softmax that c sees z through; 0 feeds z itself.
        scale: what c's output is multiplied by.
        head_gain: scale of c's initial last layer; 0 starts as ``reinforce``.
        coupling: "coupled" sets z := z~ in value, one evaluation of c and always consistent with
            the action; "independent" takes z from the noise that drew the action.
        control: another c, a module with ``forward(z, context)`` and ``tangent(z, dz, context)``.
    """

    traits = Traits(unbiased=True, context=True, trained=True, one_pass=True, control_variate=True)
    source = "Grathwohl et al. 2018, arXiv:1711.00123"

    def __init__(
        self,
        factors: int,
        categories: int,
        context: int = 0,
        seeds: int | None = None,
        *,
        hidden: tuple[int, ...] = (32, 32),
        activation: str = "tanh",
        temperature: float = 0.5,
        scale: float = 1.0,
        head_gain: float = 0.0,
        coupling: Coupling = "coupled",
        control: nn.Module | None = None,
    ) -> None:
        super().__init__(factors, categories, context, seeds)
        checked(coupling)
        self.coupling = coupling
        self.control: Any = control or ControlVariate(
            factors,
            categories,
            context,
            seeds or 1,
            hidden=hidden,
            activation=activation,
            temperature=temperature,
            scale=scale,
            head_gain=head_gain,
        )

    @property
    def descends_variance(self) -> bool:
        """Always: c is trained on nothing else."""
        return True

    def _slope(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """(c, dc/dz) at z, detached."""
        if isinstance(self.control, ControlVariate):
            return self.control.slope(z, context)
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            c = self.control(z, context)
            (slope,) = torch.autograd.grad(c.sum(), z)
        return c.detach(), torch.where(z.isneginf(), 0.0, slope)

    def gradient(
        self,
        draw: Draw,
        value: Float[Tensor, "*batch"],
        *,
        context: Tensor | None = None,
        f: Objective | None = None,
    ) -> Float[Tensor, "*batch D A"]:
        """``[*batch, D, A]``; see ``Estimator.gradient``."""
        return controlled(draw, value, lambda z: self._slope(z, context), self.coupling)

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
        """The squared norm of the estimate; see ``relaxation.squared_norm``."""
        if direction is None:
            direction = self.gradient(draw, value, context=context)

        def tangent(z: Tensor, dz: Tensor) -> tuple[Tensor, Tensor]:
            return self.control.tangent(z, dz, context)

        rows = squared_norm(draw, value, tangent, self.coupling, direction)
        return weighted_mean(rows, weight, self.seeds)

    @torch.no_grad()
    def loss_gradients(self, draw: Draw, value: Tensor, **given: Any) -> list[Tensor]:
        """Of ``loss``; for the default c without autograd, several times faster."""
        if not isinstance(self.control, ControlVariate):
            return super().loss_gradients(draw, value, **given)
        context, direction = given.get("context"), given.get("direction")
        if direction is None:
            direction = self.gradient(draw, value, context=context)
        share = 2 * row_share(value, given.get("weight"), self.seeds)
        _, evaluations = terms(draw, self.coupling, direction)
        parts = [self.control.parameter_gradient(each, share, context) for each in evaluations]
        return [parts[0] if len(parts) == 1 else parts[0] + parts[1]]

    def rescale(self, factor: Float[Tensor, "S 1"]) -> None:
        """Multiply c."""
        self.control.rescale(factor)
