"""The products and activations of stacked layers, one for each seed, in both directions.

Only operations that give a seed the same bits in any company are used.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Columns below which a product is taken transposed: MKL is four times slower at a head of 4 units.
NARROW = 8
# Units that fill the registers of every CPU: the few numbers that did not would be rounded
# otherwise by some functions, and where a seed's numbers end depends on its company.
WHOLE = 32


def product(x: Tensor, weight: Tensor) -> Tensor:
    """``x @ weight`` for each seed: ``[S, rows, out]``."""
    if weight.shape[2] < NARROW:
        return torch.bmm(weight.mT, x.mT).mT
    return torch.bmm(x, weight)


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``x @ weight + bias`` for each seed: ``[S, rows, out]``."""
    if weight.shape[2] < NARROW:
        return torch.baddbmm(bias.mT, weight.mT, x.mT).mT
    return torch.baddbmm(bias, x, weight)


def outer(x: Tensor, gradient: Tensor) -> Tensor:
    """Gradient of the weight of ``affine`` from that of its result: ``[S, in, out]``."""
    if gradient.shape[2] < NARROW:
        return torch.bmm(gradient.mT, x).mT
    return torch.bmm(x.mT, gradient)


def activate(x: Tensor, tanh: bool) -> Tensor:
    """The activation of hidden layers, tanh or relu; outside autograd it may overwrite x."""
    if not tanh:
        return x.relu()
    if torch.is_grad_enabled() or x.shape[-1] % WHOLE:
        return x.tanh()
    if not x.is_cpu:  # memory is what counts there, and one operation goes through it once
        return x.tanh_()
    return _from_double(x.mul_(2))


def _from_double(x: Tensor) -> Tensor:
    """Tanh of half of x, in place: 2 sigmoid(x) - 1; torch's sigmoid takes a third of its tanh."""
    return x.sigmoid_().mul_(2).sub_(1)


def hidden(x: Tensor, weight: Tensor, bias: Tensor, tanh: bool) -> Tensor:
    """``activate(affine(x, weight, bias), tanh)``, with tanh's factor 2 inside the product."""
    if not tanh or torch.is_grad_enabled() or weight.shape[2] % WHOLE or not x.is_cpu:
        return activate(affine(x, weight, bias), tanh)
    return _from_double(torch.baddbmm(bias, x, weight, beta=2, alpha=2))


def through(gradient: Tensor, hidden: Tensor, tanh: bool) -> Tensor:
    """``gradient`` times the activation's derivative, from the activation's values."""
    if tanh:
        return torch.ops.aten.tanh_backward(gradient, hidden)
    return torch.ops.aten.threshold_backward(gradient, hidden, 0)
