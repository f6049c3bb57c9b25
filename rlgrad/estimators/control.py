"""The default control variate of RELAX: a network of the relaxed choice and of the context."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlgrad.estimators.networks import SeedMLP
from rlgrad.estimators.passes import TangentTrace
from rlgrad.estimators.relaxation import Term


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
        if not 0 <= temperature < math.inf:
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

    def _moved(self, z: Tensor, dz: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """The network's inputs at z and their derivative along dz."""
        y = self._features(z)
        dy = self._through(y, dz)
        x, dx = y.flatten(-2), dy.flatten(-2)
        if context is None:
            return x, dx
        return torch.cat([context, x], -1), torch.cat([torch.zeros_like(context), dx], -1)

    def _through(self, y: Tensor, v: Tensor) -> Tensor:
        """The features' Jacobian, which is its own transpose, times v."""
        if self.temperature == 0:
            return torch.where(y == 0, 0.0, v)  # masked; elsewhere noise is never exactly 0
        return y * (v - (y * v).sum(-1, keepdim=True)) / self.temperature

    @torch.no_grad()
    def slope(
        self, z: Float[Tensor, "*batch D A"], context: Tensor | None
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch D A"]]:
        """C at z and dc/dz, without a graph."""
        y = self._features(z)
        flat = y.flatten(-2)
        x = flat if context is None else torch.cat([context, flat], -1)
        trace = self.network.trace(x)
        c = self.scale * trace.output[..., 0].reshape(z.shape[:-2])
        slope = trace.rows(torch.full_like(trace.output[..., :1], self.scale))
        at_features = slope[..., -flat.shape[-1] :].reshape(y.shape)
        return c.to(z.dtype), self._through(y, at_features.to(z.dtype))

    def tangent(
        self,
        z: Float[Tensor, "*batch D A"],
        dz: Float[Tensor, "*batch D A"],
        context: Tensor | None,
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """C at z and its derivative along dz, both ``[*batch]`` and attached to c's parameters."""
        c, dc = self.network.tangent(*self._moved(z, dz, context))
        return self.scale * c.squeeze(-1), self.scale * dc.squeeze(-1)

    @torch.no_grad()
    def parameter_gradient(
        self, term: Term, share: Float[Tensor, "*batch"], context: Tensor | None
    ) -> Float[Tensor, "S P"]:
        """Gradient of the sum over rows of ``share`` times a ``Term``, without a graph."""
        x, dx = self._moved(term.z, term.dz, context)
        trace = self.network.trace(x)
        along = TangentTrace(trace, dx.reshape(trace.inputs[0].shape).to(trace.output.dtype))
        rows = *trace.output.shape[:2], 1
        share = (self.scale * share).reshape(rows).to(trace.output.dtype)
        weight = term.value_weight
        if isinstance(weight, Tensor):
            weight = weight.reshape(rows).to(share)
        return along.parameters(share * weight, share * term.slope_weight)

    def rescale(self, factor: Float[Tensor, "S 1"]) -> None:
        """Multiply c."""
        self.network.rescale(factor)
