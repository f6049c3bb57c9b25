"""An objective f that is at hand as a callable: its values at choices, its slope, its estimate."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from rlgrad.estimators.base import Draw, Estimator, Objective, one_hot


@runtime_checkable
class Differentiated(Protocol):
    """An objective that has its derivatives written out, which is faster than autograd."""

    def __call__(self, choice: Tensor) -> Tensor:
        """F at choices ``[*batch, D, A]``: ``[*batch]``."""

    def slope(self, choice: Tensor) -> tuple[Tensor, Tensor]:
        """(f, df/dchoice), detached."""

    def along(self, choice: Tensor, dx: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(f, df/dchoice, f's derivative along dx, the gradient of that), detached."""


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


def one_each(value: Tensor, choice: Float[Tensor, "*batch D A"]) -> Tensor:
    """``value``, or an error where f does not give one number for each choice.

    Raises:
        ValueError: with the shape that came and the one expected.
    """
    if value.shape != choice.shape[:-2]:
        raise ValueError(
            f"f gave a value of shape {list(value.shape)} for choices of shape "
            f"{list(choice.shape)}; expected {list(choice.shape[:-2])}, one for each choice"
        )
    return value


def slope(
    f: Objective, x: Float[Tensor, "*batch D A"], name: str
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch D A"]]:
    """(f, df/dx) at relaxed choices x, detached.

    Raises:
        ValueError: where f is not differentiable in its choices.
    """
    if isinstance(f, Differentiated):
        return f.slope(x.detach())
    with torch.enable_grad():
        y, gradient = _differentiated(f, x.detach().requires_grad_(), name, again=False)
    return y.detach(), gradient


def directional(
    f: Objective, x: Float[Tensor, "*batch D A"], dx: Float[Tensor, "*batch D A"], name: str
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """(f at x, its derivative along dx), attached to x and dx and not to parameters of f.

    By two reverse passes through f: a reverse pass through forward mode would be as cheap, but is
    silently wrong for layer norms (torch 2.13) and missing for attention.

    Raises:
        ValueError: where f is not differentiable in its choices.
    """
    if isinstance(f, Differentiated):
        y, gradient, dy, curvature = f.along(x.detach(), dx.detach())
    else:
        y, gradient, dy, curvature = _twice(f, x.detach(), dx.detach(), name)
    moved = x - x.detach()  # zero in value: its graph matters
    turned = curvature * moved + gradient * (dx - dx.detach())
    return y + (gradient * moved).sum((-2, -1)), dy + turned.sum((-2, -1))


def _twice(f: Objective, x: Tensor, dx: Tensor, name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What ``Differentiated.along`` gives, by autograd."""
    with torch.enable_grad():
        at = x.requires_grad_()
        y, gradient = _differentiated(f, at, name, again=True)
        dy = (gradient * dx).sum((-2, -1))
        curvature = torch.zeros_like(at)
        if dy.requires_grad:  # f is not linear
            (curvature,) = torch.autograd.grad(
                dy.sum(), at, allow_unused=True, materialize_grads=True
            )
    return y.detach(), gradient.detach(), dy.detach(), curvature


def _differentiated(f: Objective, x: Tensor, name: str, again: bool) -> tuple[Tensor, Tensor]:
    """(f, df/dx), attached where it is to be differentiated again."""
    y = one_each(f(x), x)
    gradient = None
    if y.requires_grad:  # if only through parameters of f, the gradient is None
        (gradient,) = torch.autograd.grad(y.sum(), x, create_graph=again, allow_unused=True)
    if gradient is None:
        raise ValueError(
            f"{name} differentiates f at relaxed choices, and this f is not differentiable "
            "in them: use relax, leave-one-out or reinforce"
        )
    return y, gradient


def values_at(estimator: Estimator, draw: Draw, f: Objective) -> Tensor:
    """F at the drawn choices: ``[*batch]``, or ``[K, *batch]`` where the estimator takes K."""
    choice = one_hot(draw)
    # f may know of the batch, such as the input of each row, but not of K.
    return f(choice) if estimator.values == 1 else torch.stack([f(each) for each in choice])


def inner(
    logits: Float[Tensor, "*batch D A"], gradient: Tensor, axes: tuple[int, ...] | None = None
) -> Tensor:
    """<logits, stop(gradient)> over ``axes`` (all: None), skipping masked categories."""
    finite = torch.where(logits.isneginf(), 0.0, logits)
    return (finite * gradient.detach()).sum(axes)


def surrogate(
    draw: Draw, value: Float[Tensor, "*batch"], gradient: Float[Tensor, "*batch D A"]
) -> Float[Tensor, "*batch"]:
    """A number whose value is f and whose gradient at the logits is the estimate.

    Args:
        draw: from ``Estimator.sample``, logits attached.
        value: ``[*batch]``; its own graph (parameters of f) is kept.
        gradient: ``[*batch, D, A]`` from ``Estimator.gradient``.
    """
    pulled = inner(draw.logits, gradient, (-2, -1))
    return value + (pulled - pulled.detach())


def estimate(
    estimator: Estimator,
    logits: Float[Tensor, "*batch D A"],
    f: Objective,
    *,
    context: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*batch"]:
    """Sample a choice and return f there, differentiable in the logits by the estimator.

    Args:
        estimator: from ``build``.
        logits: ``[*batch, D, A]``.
        f: takes one-hot or relaxed choices ``[*batch, D, A]`` and returns ``[*batch]``.
        context: ``[*batch, C]``, where the estimator was built with a context.
        generator: source of noise.

    Returns:
        ``[*batch]``: the value is f at the sampled choice (its mean over K draws), the gradient
        with respect to the logits is the estimate of d E[f] / d logits, and the gradient with
        respect to parameters inside f is f's own.
    """
    draw = estimator.sample(logits, generator=generator)
    values = values_at(estimator, draw, f)
    gradient = estimator.gradient(draw, values.detach(), context=context, f=f)
    value = values if estimator.values == 1 else values.mean(0)
    return surrogate(draw._replace(logits=logits), value, gradient)
