"""Noise of a discrete choice and of its relaxation, stable for extreme and masked logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


def exponential(
    shape: Sequence[int], like: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Exp(1) noise of the given shape, strictly positive, in the dtype and device of ``like``."""
    noise = torch.empty(tuple(shape), dtype=like.dtype, device=like.device)
    return noise.exponential_(generator=generator).clamp_(min=torch.finfo(like.dtype).tiny)


def probabilities(logits: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch A"]:
    """Softmax over the last axis; over a few numbers torch's own takes twice as long."""
    return logits.log_softmax(-1).exp()


def relaxed(
    logits: Float[Tensor, "*batch D A"], gumbel: Float[Tensor, "*batch D A"]
) -> Float[Tensor, "*batch D A"]:
    """The relaxed choice z = log p + Gumbel, whose argmax is the action."""
    return logits.log_softmax(-1) + gumbel


def relaxed_given_action(
    logits: Float[Tensor, "*batch D A"],
    action: Int[Tensor, "*batch D"],
    second: Float[Tensor, "*many D A"],
) -> Float[Tensor, "*many D A"]:
    """z~, distributed as z given that its argmax is the action (Tucker 2017, appendix; Maddison).

    The largest entry is a standard Gumbel whatever the logits, since they are normalised first;
    the others are Gumbels truncated below it. Nothing is divided by p, so p = 0 is harmless.

    Args:
        logits: ``[*batch, D, A]``; -inf stays -inf.
        action: ``[*batch, D]`` int64.
        second: ``[*batch, D, A]`` Exp(1) noise, or ``[K, *batch, D, A]`` for K relaxed choices.
    """
    log_noise = second.log()
    index = action.expand(second.shape[:-1]).unsqueeze(-1)
    top = log_noise.gather(-1, index)
    other = log_noise - logits.log_softmax(-1)
    # logaddexp written out: torch's own gives other bits for one seed than for twenty.
    below = -(torch.maximum(other, top) + (other - top).abs().neg().exp().log1p())
    return below.scatter(-1, index, -top)


def slack(
    z: Float[Tensor, "*batch D A"], action: Int[Tensor, "*batch D"]
) -> Float[Tensor, "*batch D A"]:
    """exp(z_i - z_action): one at the action, and 1 - slack is d z~_i / d log p_i elsewhere."""
    return (z - z.gather(-1, action.unsqueeze(-1))).exp()


def through_softmax(
    q: Float[Tensor, "*#batch D A"], v: Float[Tensor, "*#batch D A"]
) -> Float[Tensor, "*#batch D A"]:
    """J v with J = diag q - q q^T, the Jacobian of a softmax whose value is q, and its transpose.

    Zero where q is, whatever v is there: the derivative of f at a masked category does not matter.
    """
    v = torch.where(q == 0, 0.0, v)
    return q * (v - (q * v).sum(-1, keepdim=True))
