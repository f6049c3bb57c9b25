"""RELAX with a control variate that is linear in fixed features and fitted by least squares.

    c(z, x) = V(x) + sum_d y_d . q_d(x),   V linear in [1, x, tanh(W x + w)], q_d linear in [1, x]

The estimate is linear in c, so the c of least variance solves a linear system in second moments:
no step size, and one rollout is enough to follow a policy and a critic that have moved. How much
of the fit is used is itself fitted, on draws that came after it, and falls to zero where the fit
does not carry over.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlgrad.errors import UsageError
from rlgrad.estimators import noise
from rlgrad.estimators.base import Draw, Estimator, Objective, Traits, one_hot, score
from rlgrad.estimators.least_squares import LeastSquares
from rlgrad.estimators.relaxation import Coupling
from rlgrad.estimators.statistics import seed_rows

Form = Literal["relaxed", "exact-sum"]
LARGEST = 2048  # columns; the moments are its square, per seed


def _padded(x: Tensor) -> Tensor:
    """Zeros appended up to a multiple of 4 columns: others are multiplied to other bits."""
    return nn.functional.pad(x, (0, -x.shape[-1] % 4))


class LinearRelax(Estimator):
    """RELAX with c linear in fixed features, fitted by least squares on the gradient's variance.

    Args:
        factors: D.
        categories: A.
        context: C, features that c sees beside the choice.
        seeds: S.
        form: "relaxed": y = softmax(z / temperature), as in RELAX. "exact-sum": its limit at
            temperature 0, y the choice itself, whose expectation is summed instead of sampled.
        temperature: of the relaxation, above 0.
        coupling: of z and z~, see ``Relax``.
        width: random features of the context in V.
        decay: weight of the past per ``observe``.
        ridge: shrinkage of the fit.
    """

    traits = Traits(unbiased=True, context=True, one_pass=True, control_variate=True)
    source = "Grathwohl et al. 2018, arXiv:1711.00123, with c fitted by least squares"
    random: Tensor

    def __init__(
        self,
        factors: int,
        categories: int,
        context: int = 0,
        seeds: int | None = None,
        *,
        form: Form = "relaxed",
        temperature: float = 0.5,
        coupling: Coupling = "coupled",
        width: int = 64,
        decay: float = 0.95,
        ridge: float = 0.01,
    ) -> None:
        super().__init__(factors, categories, context, seeds)
        for name, value, known in (
            ("form", form, get_args(Form)),
            ("coupling", coupling, get_args(Coupling)),
        ):
            if value not in known:
                raise ValueError(f"{name} {value!r} is not one of {', '.join(known)}")
        if not 0 < temperature < math.inf:
            raise ValueError(f"got temperature {temperature}; expected a number above 0")
        self.form, self.temperature, self.coupling = form, temperature, coupling
        # Widths are multiples of 4, so that a seed gets the same bits in any company.
        self.plain, width = 1 + context, width + -width % 4 if context else 0
        self.state = self.plain + -self.plain % 4 + width
        self.entries = factors * categories * self.plain
        columns = self.state + self.entries + -self.entries % 4
        if columns > LARGEST:
            raise UsageError(
                f"relax-linear would fit {columns:,} weights for {factors} x {categories} choices "
                f"and {context} features; expected at most {LARGEST:,}: use relax"
            )
        generator = torch.Generator().manual_seed(0)
        random = torch.randn(self.plain, width, generator=generator)
        self.register_buffer("random", random, persistent=False)  # the same for every seed
        self.solver = LeastSquares(columns, seeds or 1, decay, ridge)

    def _features(self, context: Tensor | None, like: Tensor) -> Float[Tensor, "S rows J"]:
        """[1, x, 0 .., tanh(W x + w)] of each seed's rows."""
        rows = seed_rows(like, self.seeds).unsqueeze(-1)
        x = torch.ones_like(rows)
        if self.context and context is not None:
            x = torch.cat([x, context.reshape(*rows.shape[:2], -1).to(like)], -1)
        weight = self.random.to(like).expand(len(rows), -1, -1).contiguous()
        return torch.cat([_padded(x), torch.bmm(x, weight).tanh()], -1)

    def _choices(self, draw: Draw) -> tuple[Tensor, Tensor]:
        """C's view y of the choice ``[*batch, D, A]``, and what is added back for it.

        The second, ``[*batch, D, A, A]``, is for each entry of y the estimate of its expectation's
        derivative at the logits of its own factor (last axis: sums over it keep a seed's bits).
        """
        logits = draw.logits.detach()
        eye = torch.eye(logits.shape[-1], dtype=logits.dtype, device=logits.device)
        p = logits.softmax(-1)
        if self.form == "exact-sum":
            return one_hot(draw), p.unsqueeze(-1) * (eye - p.unsqueeze(-2))
        tilde = noise.relaxed_given_action(logits, draw.action, draw.second)
        room = noise.slack(tilde, draw.action).unsqueeze(-2)

        def relaxation(z: Tensor) -> tuple[Tensor, Tensor]:
            y = (z / self.temperature).softmax(-1)
            return y, y.unsqueeze(-1) * (eye - y.unsqueeze(-2)) / self.temperature

        y, slope = relaxation(tilde)
        if self.coupling == "coupled":
            path = room * slope
        else:
            path = relaxation(noise.relaxed(logits, draw.gumbel))[1] - (1 - room) * slope
        return y, path - p.unsqueeze(-2) * path.sum(-1, keepdim=True)

    def gradient(
        self,
        draw: Draw,
        value: Float[Tensor, "*batch"],
        *,
        context: Tensor | None = None,
        f: Objective | None = None,
    ) -> Float[Tensor, "*batch D A"]:
        """``[*batch, D, A]``; see ``Estimator.gradient``."""
        value = value.detach()
        features = self._features(context, value)
        weights = (self.solver.share() * self.solver.weights).to(value)
        state = torch.bmm(features, _padded(weights[:, : self.state, None]))[..., 0]
        table = weights[:, self.state : self.state + self.entries].unflatten(1, (self.plain, -1))
        q = torch.bmm(features[..., : self.plain].contiguous(), _padded(table))
        q = q[..., : table.shape[-1]].reshape(draw.logits.shape)
        y, slope = self._choices(draw)
        c = state.reshape(value.shape) + (y * q).sum((-2, -1))
        back = (slope * q.unsqueeze(-1)).transpose(-1, -2).contiguous().sum(-1)
        return (value - c)[..., None, None] * score(draw) + back

    @torch.no_grad()
    def observe(
        self,
        draw: Draw,
        value: Float[Tensor, "*batch"],
        *,
        context: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> None:
        """Fit c to this batch and, with falling weight, to those before it."""
        features = self._features(context, value)
        S, rows = features.shape[:2]
        s = score(draw).reshape(S, rows, -1)
        weight = torch.ones_like(value) if weight is None else weight.to(value)
        counts = (weight > 0).reshape(S, rows, 1)
        s = torch.where(counts, s, 0.0)
        removed = torch.where(counts.unsqueeze(-1), self._removed(draw, s), 0.0)
        f = torch.where(counts, value.reshape(S, rows, 1), 0.0)
        norm = (s * s).sum(-1, keepdim=True)
        along = (removed * s.unsqueeze(2)).sum(-1)
        plain = features[..., : self.plain, None]
        entries = _padded((plain * along.unsqueeze(2)).flatten(2))
        across = features.transpose(1, 2).contiguous()
        upper = torch.bmm(across, torch.cat([norm * features, entries], -1))
        by_logit = removed.transpose(2, 3).unsqueeze(3)
        each = _padded((plain.unsqueeze(2) * by_logit).flatten(3)).flatten(1, 2)
        corner = torch.bmm(each.transpose(1, 2).contiguous(), each)
        lower = torch.cat([upper[..., self.state :].transpose(1, 2), corner], -1)
        cross = torch.cat([norm * features, entries], -1) * f
        cross = cross.transpose(1, 2).contiguous().sum(-1)
        self.solver.fit(torch.cat([upper, lower], 1), cross, (f * f * norm).flatten(1).sum(-1))

    def _removed(self, draw: Draw, s: Tensor) -> Float[Tensor, "S rows DA DA"]:
        """What a unit of each q takes off the estimate: entries of q by logits."""
        y, slope = self._choices(draw)
        S, rows = s.shape[:2]
        D, A = y.shape[-2:]
        apart = torch.eye(D, dtype=s.dtype, device=s.device).view(D, 1, D, 1)
        back = (slope.reshape(S, rows, D, A, 1, A) * apart).reshape(S, rows, D * A, D * A)
        return s.unsqueeze(2) * y.reshape(S, rows, D * A, 1) - back

    def rescale(self, factor: Float[Tensor, "S 1"]) -> None:
        """Multiply c."""
        self.solver.rescale(factor)
