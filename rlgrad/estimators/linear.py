"""RELAX with a control variate that is linear in fixed features and fitted by least squares.

    c(z, x) = V(x) + sum_d y_d . q_d(x),   V linear in [1, x, tanh(W x + w)], q_d linear in [1, x]

The estimate is linear in c, so the c of least variance solves a linear system in second moments:
no step size, and one rollout is enough to follow a policy and a critic that have moved. How much
of the fit is used is itself fitted, on draws that came after it, and falls to zero where the fit
does not carry over. Of many choices q weighs fixed random mixtures, so that the cost of a fit grows
no faster than the number of choices.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlgrad.estimators import noise
from rlgrad.estimators.base import Draw, Estimator, Objective, one_hot
from rlgrad.estimators.columns import Columns
from rlgrad.estimators.layers import product
from rlgrad.estimators.least_squares import LeastSquares
from rlgrad.estimators.networks import padded
from rlgrad.estimators.pooling import Batch, Chain
from rlgrad.estimators.relaxation import Coupling
from rlgrad.estimators.statistics import all_count
from rlgrad.estimators.traits import Traits

Form = Literal["relaxed", "exact-sum"]


class LinearRelax(Estimator):
    """RELAX with c linear in fixed features, fitted by least squares on the gradient's variance.

    Args:
        factors: D.
        categories: A.
        context: C, features that c sees beside the choice; where their weights would be too many,
            a fixed random projection of them onto 64.
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
        self.columns = Columns(factors, categories, context, width, seeds)
        self.solver = LeastSquares(self.columns.count, seeds or 1, decay, ridge)

    def _seen(
        self, draw: Draw, value: Tensor, context: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(features, score ``[S, rows, DA]``, ``_removed``); an agent asks twice for each draw."""
        kept = self.__dict__.get("_kept")
        if kept is None or kept[0] is not draw or kept[1] is not context:
            features = self.columns.features(context, value)
            p = noise.probabilities(draw.logits.detach())
            s = one_hot(draw) - p
            y, slope = self._choices(draw, p)
            seen = features, s.reshape(*features.shape[:2], -1), self._removed(s, y, slope)
            kept = self.__dict__["_kept"] = draw, context, seen
        return kept[2]

    def __getstate__(self) -> dict[str, object]:
        # A copy has not seen anything.
        return {name: value for name, value in self.__dict__.items() if name != "_kept"}

    def _choices(self, draw: Draw, p: Tensor) -> tuple[Tensor, Tensor]:
        """C's view y of the choice ``[*batch, D, A]``, and what is added back for it.

        The second, ``[*batch, D, A, A]``, is for each logit (the first A) and each entry of y the
        estimate of the derivative of that entry's expectation. Of mixtures, ``*batch`` is S, rows
        in both, and the last axis E.
        """
        columns = self.columns
        if columns.mixing is None:
            basis = torch.eye(p.shape[-1], dtype=p.dtype, device=p.device)
        else:
            basis, p = columns.mixing.to(p), columns.by_seed(p)
        if self.form == "exact-sum":
            return columns.mixed(one_hot(draw)), p.unsqueeze(-1) * (
                basis - columns.mixed(p).unsqueeze(-2)
            )
        logits = draw.logits.detach()
        tilde = noise.relaxed_given_action(logits, draw.action, draw.second)
        room = columns.by_seed(noise.slack(tilde, draw.action)).unsqueeze(-1)

        def relaxation(z: Tensor) -> tuple[Tensor, Tensor]:
            y = columns.by_seed(noise.probabilities(z / self.temperature))
            seen = columns.mixed(y)
            return seen, (y / self.temperature).unsqueeze(-1) * (basis - seen.unsqueeze(-2))

        y, slope = relaxation(tilde)
        if self.coupling == "coupled":
            path = room * slope
        else:
            path = relaxation(noise.relaxed(logits, draw.gumbel))[1] - (1 - room) * slope
        # Summed over a trailing axis, which gives a seed the same bits in any company.
        total = path.mT.contiguous().sum(-1).unsqueeze(-2)
        return y, path - p.unsqueeze(-1) * total

    @torch.no_grad()
    def gradient(
        self,
        draw: Draw,
        value: Float[Tensor, "*batch"],
        *,
        context: Tensor | None = None,
        f: Objective | None = None,
    ) -> Float[Tensor, "*batch D A"]:
        """``[*batch, D, A]``; see ``Estimator.gradient``."""
        features, s, removed = self._seen(draw, value, context)
        weights = (self.solver.share() * self.solver.weights).to(value)
        columns, E = self.columns, self.columns.entries
        # One product for V and all q: the first column is V's.
        table = weights.new_zeros(len(weights), columns.state, padded(1 + E))
        table[..., 0] = weights[:, : columns.state]
        table[:, : columns.read, 1 : 1 + E] = weights[:, columns.state :].unflatten(1, (-1, E))
        c = product(features, table)
        left = value.reshape(c.shape[:2]) - c[..., 0]
        q = c[..., 1 : 1 + E].unsqueeze(2)
        return (left.unsqueeze(-1) * s - (removed * q).sum(-1)).reshape(draw.logits.shape)

    def observing(
        self,
        draw: Draw,
        value: Float[Tensor, "*batch"],
        *,
        context: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Chain:
        """Fit c to this batch and, with falling weight, to those before it."""
        features, s, removed = self._seen(draw, value, context)
        self.__dict__.pop("_kept")
        S, rows = s.shape[:2]
        f = value.reshape(S, rows, 1)
        if weight is not None and not all_count(weight):
            counts = (weight > 0).reshape(S, rows, 1)
            f, s = torch.where(counts, f, 0.0), s * counts
            removed = removed * counts.unsqueeze(-1)
        norm = (s * s).sum(-1, keepdim=True)
        along = (removed.mT.contiguous() * s.unsqueeze(2)).sum(-1)
        J, read, E = self.columns.state, self.columns.read, self.columns.entries
        plain = features[..., :read]
        # Written where they belong: on many seeds copies cost as much as products.
        right = features.new_empty(S, rows, self.solver.columns)
        torch.mul(norm, features, out=right[..., :J])
        entries = right[..., J:].unflatten(2, (read, E))
        torch.mul(plain.unsqueeze(3), along.unsqueeze(2), out=entries)
        each = (plain.unsqueeze(2).unsqueeze(4) * removed.unsqueeze(3)).view(S, -1, read * E)
        # One product for the first rows of the matrix and for the target; four columns of the
        # target, as bits are kept apart.
        upper = torch.bmm(torch.cat([features, nn.functional.pad(f, (0, 3))], 2).mT, right)
        lower = torch.cat([upper[:, :J, J:].mT, torch.bmm(each.mT, each)], 2)
        size = (f * f * norm).view(S, -1).sum(-1)
        gram = torch.cat([upper[:, :J], lower], 1)
        self.solver.fit(*(yield Batch((gram, upper[:, J], size))).numbers)

    def _removed(self, s: Tensor, y: Tensor, slope: Tensor) -> Float[Tensor, "S rows DA E"]:
        """What a unit of each q takes off the estimate: logits by entries of q."""
        D, A = s.shape[-2:]
        if self.columns.mixing is not None:
            y = y.sum(-2)
        elif D > 1:
            apart = torch.eye(D, dtype=s.dtype, device=s.device).view(D, 1, D, 1)
            slope = slope.unsqueeze(-2) * apart
        rows = s.numel() // (self.solver.weights.shape[0] * D * A)
        shape = self.solver.weights.shape[0], rows, D * A
        return s.reshape(*shape, 1) * y.reshape(*shape[:2], 1, -1) - slope.reshape(*shape, -1)

    def rescale(self, factor: Float[Tensor, "S 1"]) -> None:
        """Multiply c."""
        self.solver.rescale(factor)
