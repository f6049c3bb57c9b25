"""RELAX as its paper and public code have it: control variate, sampler, baseline of the rival.

Only ``reproduce_relax.py`` uses these. The sampler is wrong on purpose: the largest entry of z~ is
a Gumbel around log p of the action, as if nothing were known of it, where a standard Gumbel is
right. The package's own sampler is ``rlgrad.estimators.noise.relaxed_given_action``.

Source: Grathwohl, Choi, Wu, Roeder, Duvenaud, Backpropagation through the Void, ICLR 2018,
arXiv:1711.00123, and the code it names, github.com/wgrathwohl/BackpropThroughTheVoidRL.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rlgrad.estimators import Draw, Estimator, Traits, noise
from rlgrad.estimators.base import score
from rlgrad.estimators.networks import SeedMLP
from rlgrad.estimators.noise import through_softmax
from rlgrad.estimators.statistics import weighted_mean

HIDDEN = (10, 10)


class Control(nn.Module):
    """c(z, x) = s x network(x, softmax(z / tau)): ReLU layers, s and tau trained with the rest.

    Args:
        features: F of x.
        categories: A.
        seeds: S.
        sees_action: whether c sees z; without it c is a baseline of the state.
    """

    def __init__(
        self, features: int, categories: int, seeds: int, sees_action: bool = True
    ) -> None:
        super().__init__()
        self.network = SeedMLP(features + categories, 1, HIDDEN, seeds, activation="relu")
        self.scale = nn.Parameter(torch.ones(seeds, 1))
        self.log_temperature = nn.Parameter(torch.zeros(seeds, 1))
        self.seen = float(sees_action)

    def _choice(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(softmax(z / tau), tau, s), shaped to be multiplied with z or with c."""
        batch = [-1] + [1] * (z.ndim - 3)
        tau = self.log_temperature.exp().view(*batch, 1, 1)
        return (z / tau).softmax(-1), tau, self.scale.view(batch)

    def _inputs(self, context: Tensor, choice: Tensor) -> Tensor:
        return torch.cat([context, self.seen * choice.flatten(-2)], -1)

    def forward(self, z: Tensor, context: Tensor) -> Tensor:
        """C at z ``[S, ..., 1, A]``: ``[S, ...]``."""
        y, _, scale = self._choice(z)
        return scale * self.network(self._inputs(context, y)).squeeze(-1)

    def tangent(self, z: Tensor, dz: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """C at z and its derivative along dz, attached to all parameters."""
        y, tau, scale = self._choice(z)
        dx = self._inputs(torch.zeros_like(context), through_softmax(y, dz) / tau)
        c, dc = self.network.tangent(self._inputs(context, y), dx)
        return scale * c.squeeze(-1), scale * dc.squeeze(-1)


def public_sampler(logits: Tensor, action: Tensor, second: Tensor) -> Tensor:
    """z~ of the public code; arguments as for ``noise.relaxed_given_action``, attached to logits.

    z~_b = log p_b - log E_b and z~_i = -log(E_i / p_i + exp(-z~_b)): what is below the largest
    entry would be right, had that entry been.
    """
    log_p, log_noise, index = logits.log_softmax(-1), second.log(), action.unsqueeze(-1)
    top = (log_p - log_noise).gather(-1, index)
    other = log_noise - log_p
    below = -torch.logaddexp(other, -top.expand_as(other))
    return below.scatter(-1, index, top)


class PublicRelax(Estimator):
    """RELAX with z from the noise that drew the action, and z~ of ``public_sampler``.

    Args:
        factors: D.
        categories: A.
        context: F.
        seeds: S.
        control: c, called with (z, context).
        exact: take the package's sampler, to test this class against ``Relax``.
    """

    traits = Traits(unbiased=False, context=True, trained=True, one_pass=True, control_variate=True)
    source = "Grathwohl et al. 2018, arXiv:1711.00123, public code"

    def __init__(
        self,
        factors: int,
        categories: int,
        context: int = 0,
        seeds: int | None = None,
        *,
        control: nn.Module,
        exact: bool = False,
    ) -> None:
        super().__init__(factors, categories, context, seeds)
        self.control = control
        self.sampler = noise.relaxed_given_action if exact else public_sampler

    @property
    def descends_variance(self) -> bool:
        """Always."""
        return True

    def _parts(self, draw: Draw, context: Tensor | None, again: bool) -> tuple[Tensor, Tensor]:
        """(c(z~), d/dl (c(z) - c(z~))), attached to c's parameters where ``again``."""
        with torch.enable_grad():
            logits = draw.logits.detach().requires_grad_()
            c_tilde = self.control(self.sampler(logits, draw.action, draw.second), context)
            c = self.control(noise.relaxed(logits, draw.gumbel), context)
            (path,) = torch.autograd.grad((c - c_tilde).sum(), logits, create_graph=again)
        return c_tilde, path

    def gradient(
        self, draw: Draw, value: Tensor, *, context: Tensor | None = None, f: Any = None
    ) -> Tensor:
        """``[*batch, D, A]``; see ``Estimator.gradient``."""
        c_tilde, path = self._parts(draw, context, again=False)
        return (value - c_tilde.detach())[..., None, None] * score(draw) + path.detach()

    def loss(
        self,
        draw: Draw,
        value: Tensor,
        *,
        context: Tensor | None = None,
        f: Any = None,
        direction: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """The squared norm of the estimate, by double backward."""
        c_tilde, path = self._parts(draw, context, again=True)
        u = (value - c_tilde)[..., None, None] * score(draw) + path
        inner = (u * (u.detach() if direction is None else direction)).sum((-2, -1))
        return weighted_mean(2 * inner - inner.detach(), weight, self.seeds)


class Regressed(Estimator):
    """(f - c(x)) score with c fitted by squared error: V, in the form that RELAX's c has.

    Args:
        factors: D.
        categories: A.
        context: F.
        seeds: S.
        control: c, which sees the state alone.
    """

    traits = Traits(unbiased=True, context=True, trained=True)
    source = "Mnih & Gregor 2014, arXiv:1402.0030"

    def __init__(
        self, factors: int, categories: int, context: int, seeds: int, *, control: Control
    ) -> None:
        super().__init__(factors, categories, context, seeds)
        self.control = control

    def _left(self, draw: Draw, value: Tensor, context: Tensor | None) -> Tensor:
        return value - self.control(torch.zeros_like(draw.logits), context)

    @torch.no_grad()
    def gradient(
        self, draw: Draw, value: Tensor, *, context: Tensor | None = None, f: Any = None
    ) -> Tensor:
        """``[*batch, D, A]``; see ``Estimator.gradient``."""
        return self._left(draw, value, context)[..., None, None] * score(draw)

    def loss(
        self,
        draw: Draw,
        value: Tensor,
        *,
        context: Tensor | None = None,
        f: Any = None,
        direction: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Half the squared error."""
        return weighted_mean(0.5 * self._left(draw, value, context) ** 2, weight, self.seeds)


def broadcast_advantage(returns: Tensor, value: Tensor, weight: Tensor) -> Tensor:
    """What the public A2C credits to the actions of an episode of n steps: n (R_t - mean V).

    There a row of returns ``[n]`` less a column of values ``[n, 1]`` is a square ``[n, n]``, whose
    product with the row of log-probabilities is then summed over both axes.

    Args:
        returns: ``[S, T, 1]`` discounted returns to go.
        value: ``[S, T, 1]`` V.
        weight: ``[S, T, 1]`` 1 for steps of the episode.
    """
    steps = weight.sum(1, keepdim=True).clamp(min=1.0)
    mean = (value * weight).sum(1, keepdim=True) / steps
    return steps * (returns - mean) * weight
