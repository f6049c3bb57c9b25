"""What RELAX and REBAR share: the estimate with a control variate c of the relaxed choice, any c.

    u = (f(b) - c(z~)) score(b) + d/dl c(z) - d/dl c(z~)

Its mean is the gradient for every c. The parameters of c descend the squared norm of u, whose mean
differs from the variance by a constant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from rlgrad.estimators import noise
from rlgrad.estimators.base import Draw, one_hot

Coupling = Literal["coupled", "independent"]
"""Where z comes from: z := z~ in value, or the noise that drew the action."""
Slope = Callable[[Tensor], tuple[Tensor, Tensor]]
"""z ``[*batch, D, A]`` -> (c ``[*batch]``, dc/dz ``[*batch, D, A]``), detached."""
Tangent = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(z, dz) -> (c, its derivative along dz), ``[*batch]`` each, attached to c's parameters."""


def checked(coupling: str) -> None:
    """Refuse an unknown coupling.

    Raises:
        ValueError: naming the known ones.
    """
    if coupling not in get_args(Coupling):
        raise ValueError(f"coupling {coupling!r} is not one of {', '.join(get_args(Coupling))}")


def controlled(
    draw: Draw, value: Float[Tensor, "*batch"], slope: Slope, coupling: Coupling
) -> Float[Tensor, "*batch D A"]:
    """The estimate u, with c given by its slope."""
    logits = draw.logits.detach()
    tilde = noise.relaxed_given_action(logits, draw.action, draw.second)
    c, at_tilde = slope(tilde)
    room = noise.slack(tilde, draw.action)
    if coupling == "coupled":
        path = room * at_tilde
    else:
        path = slope(noise.relaxed(logits, draw.gumbel))[1] - (1 - room) * at_tilde
    p = noise.probabilities(logits)
    pulled = path - p * path.sum(-1, keepdim=True)
    return (value.detach() - c)[..., None, None] * (one_hot(draw) - p) + pulled


class Term(NamedTuple):
    """One evaluation of c inside <w, u>: value_weight c(z) + slope_weight dc(z; dz)."""

    z: Tensor
    """``[*batch, D, A]``."""
    dz: Tensor
    """``[*batch, D, A]``."""
    value_weight: Tensor | float
    """``[*batch]``."""
    slope_weight: float


def along(draw: Draw, direction: Tensor) -> Float[Tensor, "*batch D A"]:
    """The tangent of log p along ``direction``: w - <w, p>, zero for masked categories.

    Its entry at the action is the inner product of the direction with the score.
    """
    p = noise.probabilities(draw.logits.detach())
    tangent = direction - (direction * p).sum(-1, keepdim=True)
    return torch.where(draw.logits.isneginf(), 0.0, tangent)


def terms(
    draw: Draw, coupling: Coupling, direction: Float[Tensor, "*batch D A"]
) -> tuple[Float[Tensor, "*batch"], list[Term]]:
    """<w, u> as f times the first, ``[*batch]``, plus a sum of evaluations of c."""
    logits = draw.logits.detach()
    tilde = noise.relaxed_given_action(logits, draw.action, draw.second)
    room, w = noise.slack(tilde, draw.action), along(draw, direction)
    w_score = w.gather(-1, draw.action.unsqueeze(-1)).squeeze(-1).sum(-1)
    if coupling == "coupled":
        return w_score, [Term(tilde, room * w, -w_score, 1.0)]
    z = noise.relaxed(logits, draw.gumbel)
    return w_score, [Term(tilde, (1 - room) * w, -w_score, -1.0), Term(z, w, 0.0, 1.0)]


def squared_norm(
    draw: Draw,
    value: Float[Tensor, "*batch"],
    tangent: Tangent,
    coupling: Coupling,
    direction: Float[Tensor, "*batch D A"],
) -> Float[Tensor, "*batch"]:
    """Rows with the value of <direction, u> and the gradient of |u|^2, without double backward.

    With v = stop(u), the gradient of |u|^2 in c's parameters is that of 2 <v, u>, and <v, u> needs
    only c and its directional derivative. The direction v is the norm at the logits; J v with v a
    parameter gradient is the norm of v.
    """
    w_score, evaluations = terms(draw, coupling, direction)
    inner = value.detach() * w_score
    for z, dz, value_weight, slope_weight in evaluations:
        c, slope = tangent(z, dz)
        inner = inner + (value_weight * c + slope_weight * slope)
    return 2 * inner - inner.detach()
