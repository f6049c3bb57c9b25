"""REBAR: RELAX whose control variate is f itself at a relaxed choice, eta f(softmax_tau z)."""

from __future__ import annotations

import math
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlgrad.estimators.base import Draw, Estimator, Objective
from rlgrad.estimators.noise import through_softmax
from rlgrad.estimators.objective import directional, needed, slope
from rlgrad.estimators.relaxation import Coupling, checked, controlled, squared_norm
from rlgrad.estimators.statistics import seed_rows, weighted_mean
from rlgrad.estimators.traits import Traits

LEAST = 0.01  # of the temperature: the slope of c, and so the noise it can add, grows as 1 / tau
MOST_LOG = 5.0  # above e^5 the relaxed choice is uniform to a few per cent; keeps exp finite


class Rebar(Estimator):
    """(f(b) - eta f(s(z~))) score + eta d/dl f(s(z)) - eta d/dl f(s(z~)), s = softmax_tau.

    f(b) is the value as given, and f serves the control variate alone, so the mean is right
    whatever f is: in reinforcement learning the value is the return and f a learned critic. Where
    values come multiplied by a factor, the owner of f multiplies f likewise; eta is a ratio and
    stays, so ``rescale`` has nothing to do. Parameters of f get no gradient from here. Training
    differentiates f twice, which a compiled f refuses.

    Args:
        factors: D.
        categories: A.
        context: ignored; f sees what it sees.
        seeds: S, each with an eta and a temperature of its own.
        eta: initial factor on f; 0 starts as ``reinforce``.
        temperature: initial tau, above 0.01 and up to 100.
        coupling: "coupled" sets z := z~ in value; "independent" takes z from the noise that drew
            the action.
    """

    traits = Traits(
        unbiased=True, differentiable=True, trained=True, one_pass=True, control_variate=True
    )
    source = "Tucker et al. 2017, arXiv:1703.07370"

    def __init__(
        self,
        factors: int,
        categories: int,
        context: int = 0,
        seeds: int | None = None,
        *,
        eta: float = 1.0,
        temperature: float = 0.5,
        coupling: Coupling = "coupled",
    ) -> None:
        super().__init__(factors, categories, context, seeds)
        checked(coupling)
        if not LEAST < temperature <= 100:
            raise ValueError(f"got temperature {temperature}; expected above {LEAST}, up to 100")
        self.coupling = coupling
        self.eta = nn.Parameter(torch.full((seeds or 1, 1), float(eta)))
        start = math.log(temperature - LEAST)
        self.log_temperature = nn.Parameter(torch.full((seeds or 1, 1), start))

    @property
    def temperature(self) -> Float[Tensor, "S 1"]:
        """Tau: 0.01 + exp(log_temperature), smooth so that it never sticks at its least."""
        return LEAST + self.log_temperature.clamp(max=MOST_LOG).exp()

    @property
    def descends_variance(self) -> bool:
        """Always: eta and tau are trained on nothing else."""
        return True

    def _rows(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(eta ``[S, 1, ..]``, tau ``[S, 1, .., 1, 1]``) to multiply ``[*batch]`` and z with."""
        shape = [-1] + [1] * (z.ndim - 3) if z.ndim > 2 else []
        eta, tau = self.eta.to(z).view(shape), self.temperature.to(z).view(shape)
        return eta, tau[..., None, None]

    def _slope(self, f: Objective, z: Tensor) -> tuple[Tensor, Tensor]:
        """(c, dc/dz) at z, detached."""
        with torch.no_grad():
            eta, tau = self._rows(z)
            y = (z / tau).softmax(-1)
            c, at_y = slope(f, y, "rebar")
            return eta * c, eta[..., None, None] * through_softmax(y, at_y) / tau

    def _tangent(self, f: Objective, z: Tensor, dz: Tensor) -> tuple[Tensor, Tensor]:
        """(c, its derivative along dz), attached to eta and tau alone."""
        eta, tau = self._rows(z)
        masked = z.isneginf()
        scaled = torch.where(masked, 0.0, z) / tau  # -inf / tau would differentiate to NaN
        y = torch.where(masked, z, scaled).softmax(-1)
        c, dc = directional(f, y, through_softmax(y, dz) / tau, "rebar")
        return eta * c, eta * dc

    def gradient(
        self,
        draw: Draw,
        value: Float[Tensor, "*batch"],
        *,
        context: Tensor | None = None,
        f: Objective | None = None,
    ) -> Float[Tensor, "*batch D A"]:
        """``[*batch, D, A]``; see ``Estimator.gradient``."""
        seed_rows(value, self.seeds)
        return controlled(
            draw, value, partial(self._slope, needed(f, "rebar", "relax")), self.coupling
        )

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
        f = needed(f, "rebar", "relax")
        if direction is None:
            direction = self.gradient(draw, value, f=f)
        rows = squared_norm(draw, value, partial(self._tangent, f), self.coupling, direction)
        return weighted_mean(rows, weight, self.seeds)
