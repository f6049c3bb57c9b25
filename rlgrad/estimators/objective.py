"""What estimators ask of an objective f that is at hand as a callable."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from rlgrad.estimators.base import Objective


def needed(f: Objective | None, name: str, instead: str) -> Objective:
    """F, or an error that says what to do without it.

    Raises:
        ValueError: where f is None.
    """
    if f is None:
        raise ValueError(
            f"{name} got no f; it needs the objective as a callable: pass f=, "
            f"or use {instead} where only the value of the choice is known"
        )
    return f


def slope(
    f: Objective, x: Float[Tensor, "*batch D A"], name: str
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch D A"]]:
    """(f, df/dx) at relaxed choices x, detached.

    Raises:
        ValueError: where f is not differentiable in its choices.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        y = f(x)
        if not y.requires_grad:
            raise ValueError(
                f"{name} differentiates f at relaxed choices, and this f is not differentiable "
                "in them: use relax, leave-one-out or reinforce"
            )
        (gradient,) = torch.autograd.grad(y.sum(), x)
    return y.detach(), gradient
