"""RELAX: a free-form control variate of the relaxed choice, trained on the gradient's variance.

    u = (f(b) - c(z~)) score(b) + d/dl c(z) - d/dl c(z~)

Its mean is the gradient for any c, so c may be any smooth function.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlgrad.estimators.base import Draw, Estimator, Objective, Traits
from rlgrad.estimators.networks import SeedMLP
from rlgrad.estimators.relaxation import Coupling, checked, controlled, squared_norm
from rlgrad.estimators.statistics import weighted_mean


class ControlVariate(nn.Module):
    """The default c(z, x): a perceptron of the context and softmax(z / temperature).

    Args:
        factors: D, all of which c sees jointly.
        categories: A.
        context: C.
        seeds: S.
        hidden: widths of the hidden layers.
        activation: "tanh"; "relu" has piecewise constant derivatives and serves reproductions only.
        temperature: of the softmax; 0 feeds z itself, with 0 for masked categories.
        scale: what the output is multiplied by, so that c starts at the size of f.
        head_gain: scale of the initial last layer; 0 starts at c = 0, which is plain ``reinforce``.
    """

    def __init__(
        self,
        factors: int,
        categories: int,
        context: int,
        seeds: int,
        *,
        hidden: tuple[int, ...],
        activation: str,
        temperature: float,
        scale: float,
        head_gain: float,
    ) -> None:
        super().__init__()
        if temperature < 0:
            raise ValueError(f"got temperature {temperature}; expected 0 (z itself) or above")
        self.temperature, self.scale = temperature, scale
        self.network = SeedMLP(
            context + factors * categories,
            1,
            hidden,
            seeds,
            activation=activation,
            head_gain=head_gain,
        )

    def _features(self, z: Tensor) -> Tensor:
        if self.temperature == 0:
            return torch.where(z.isneginf(), 0.0, z)
        return (z / self.temperature).softmax(-1)

    def forward(
        self, z: Float[Tensor, "*batch D A"], context: Tensor | None
    ) -> Float[Tensor, "*batch"]:
        """C at z: ``[*batch]``."""
        flat = self._features(z).flatten(-2)
        x = flat if context is None else torch.cat([context, flat], -1)
        return self.scale * self.network(x).squeeze(-1)

    def tangent(
        self,
        z: Float[Tensor, "*batch D A"],
        dz: Float[Tensor, "*batch D A"],
        context: Tensor | None,
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """C at z and its derivative along dz, both ``[*batch]`` and attached to c's parameters."""
        y = self._features(z)
        if self.temperature == 0:
            dy = torch.where(z.isneginf(), 0.0, dz)
        else:
            dy = y * (dz - (y * dz).sum(-1, keepdim=True)) / self.temperature
        x, dx = y.flatten(-2), dy.flatten(-2)
        if context is not None:
            x, dx = torch.cat([context, x], -1), torch.cat([torch.zeros_like(context), dx], -1)
        c, dc = self.network.tangent(x, dx)
        return self.scale * c.squeeze(-1), self.scale * dc.squeeze(-1)

    def rescale(self, factor: Float[Tensor, "S 1"]) -> None:
        """Multiply c."""
        self.network.rescale(factor)


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

    def rescale(self, factor: Float[Tensor, "S 1"]) -> None:
        """Multiply c."""
        self.control.rescale(factor)
