"""Gradients at the logits pulled back to parameters, per seed or per environment lane."""

from __future__ import annotations

import torch
from jaxtyping import Float, Num
from torch import Tensor

from rlgrad.estimators.convolution import SeedConv
from rlgrad.estimators.networks import SeedMLP
from rlgrad.estimators.passes import BLOCK
from rlgrad.estimators.pooling import ALONE, Batch, Pool
from rlgrad.estimators.statistics import live_rows

STEPS = 64  # of a lane that are evaluated together


def _groups(policy: SeedMLP | SeedConv, x: Tensor, lanes: bool) -> tuple[Tensor, Tensor]:
    """(parameters ``[G, P]``, inputs ``[G, rows, F]``) with G = S or S x N groups."""
    flat = policy.flat.detach()
    if not lanes:
        return flat, x.flatten(1, 2)
    N = x.shape[2]
    return flat.repeat_interleave(N, 0), _by_lane(x)


def _by_lane(x: Tensor) -> Tensor:
    """``[S, T, N, ...]`` -> ``[S x N, T, rest]``, in memory of its own."""
    # For one seed a reshape would be a strided view, which other kernels multiply, to other bits.
    S, T, N = x.shape[:3]
    return x.transpose(1, 2).contiguous().view(S * N, T, -1)


@torch.no_grad()
def parameter_gradients(
    policy: SeedMLP | SeedConv,
    x: Num[Tensor, "S T N F"],
    u: Float[Tensor, "S T N D A"],
    *,
    lanes: bool,
) -> Float[Tensor, "G P"]:
    """Sums over time of J^T u, for each lane (G = S x N) or each seed (G = S).

    Args:
        policy: whose Jacobian J is meant.
        x: ``[S, T, N, F]`` inputs.
        u: ``[S, T, N, D, A]`` gradients at the logits, zero in rows that do not count.
        lanes: whether lanes are kept apart.
    """
    flat, rows = _groups(policy, x, lanes)
    grouped = _by_lane(u) if lanes else u
    gradient = grouped.reshape(*rows.shape[:2], -1)
    steps = live_rows(gradient.any(-1), len(gradient))
    return policy.blocks(rows, flat, steps, STEPS if lanes else BLOCK).parameters(gradient)


@torch.no_grad()
def direction(
    objective: str,
    policy: SeedMLP | SeedConv,
    x: Num[Tensor, "S T N F"],
    u: Float[Tensor, "S T N D A"],
    pool: Pool = ALONE,
) -> Float[Tensor, "S T N D A"]:
    """J v, along which a control variate's loss is the squared norm of the parameter gradient v.

    Args:
        objective: "logits" (u itself: the norm at the logits, J = 1), "environment" (v is each
            lane's own parameter gradient) or "batch" (v is the seed's whole gradient).
        policy: whose Jacobian J is meant.
        x: ``[S, T, N, F]`` inputs.
        u: ``[S, T, N, D, A]`` gradients at the logits, zero in rows that do not count.
        pool: the processes that a batch is spread over: v of a batch is a sum over all of them,
            known before its derivative is taken; a lane's own v needs no other process.
    """
    if objective == "logits":
        return u
    lanes = objective == "environment"
    v = parameter_gradients(policy, x, u, lanes=lanes)
    if not lanes:
        (v,) = pool.pooled(Batch((v,))).numbers
    flat, rows = _groups(policy, x, lanes)
    w = torch.func.jvp(lambda p: policy(rows, p), (flat,), (v,))[1]
    if lanes:
        S, T, N, _ = x.shape
        return w.view(S, N, T, -1).transpose(1, 2).reshape(u.shape)
    return w.view(u.shape)
