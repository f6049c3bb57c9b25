"""Unbiased parts of the second moment of g = J^T u in single states, from credits that repeat.

Letters: n states, J joint actions, C copies of each, B = D x A logits. In a state, with s_a the
score of action a at the logits, H_ab = s_a^T (J J^T) s_b and w_a = pi_a H_aa; q_a and v_a the mean
and variance of its copies' credits, e_a = v_a / C the variance of q_a:

    whole       E|g|^2            sum_a w_a (q_a^2 + v_a - e_a)
    trajectory  E_a Var(g|a)      sum_a w_a v_a
    signal      |E g|^2           sum_ab pi_a pi_b q_a q_b H_ab  -  sum_a pi_a^2 H_aa e_a
    action      Var_a(E[g|a])     sum_a w_a (q_a^2 - e_a)  -  signal

A baseline b of the state changes q_a to q_a - b in sum_a w_a q_a^2 and nothing else. So it removes

    credit's own    w.(2 q V + V^2)              V: the critic's value, which is subtracted already
    state value     w.(2 q m - m^2)              b = m = sum_a pi_a q_a
    best            (sum_a w_a q_a)^2 / sum_a w_a,
    best per logit  r^T Q^+ r,   r = sum_a pi_a q_a t_a,   t_a = s_a * (J J^T s_a),
                    Q = (J J^T) * sum_a pi_a s_a s_a^T

each less what the errors e_a add to it on average. (* is the product by entries; with one baseline
per logit u = q_a s_a - b * s_a.)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

_SINGULAR = 1e-6  # of the largest eigenvalue: directions in which scores have no length


class Parts(NamedTuple):
    """Of each state, ``[n]`` in squared units of the gradient."""

    whole: Tensor
    trajectory: Tensor
    action: Tensor
    signal: Tensor
    critic: Tensor
    """What the critic's value, subtracted already, took away."""
    value: Tensor
    """What the mean credit of the state as a baseline would take away."""
    baseline: Tensor
    """What the best baseline of the state would."""
    per_logit: Tensor
    """What the best baselines of the state, one per logit, would."""


def parts_of(
    p: Float[Tensor, "n J"],
    score: Float[Tensor, "n J B"],
    metric: Float[Tensor, "n B B"],
    credit: Float[Tensor, "n J C"],
    value: Float[Tensor, " n"],
) -> Parts:
    """Parts of each state.

    Args:
        p: ``[n, J]`` probabilities of the actions.
        score: ``[n, J, B]`` of each at the logits.
        metric: ``[n, B, B]``, J J^T.
        credit: ``[n, J, C]`` of independent futures, C at least 2.
        value: ``[n]`` of the critic, which the credits have been reduced by.
    """
    q, noise = credit.mean(-1), credit.var(-1)
    error = noise / credit.shape[-1]
    pulled = score @ metric
    w = p * (pulled * score).sum(-1)
    signal = _signal(p, score, metric, q) - (p * w * error).sum(-1)
    mean = (p * q).sum(-1, keepdim=True)
    spread = (p * p * error).sum(-1, keepdim=True)  # variance of the mean credit
    known = value.unsqueeze(-1)
    total = w.sum(-1).clamp(min=1e-300)
    return Parts(
        (w * (q * q + noise - error)).sum(-1),
        (w * noise).sum(-1),
        (w * (q * q - error)).sum(-1) - signal,
        signal,
        (w * (2 * q * known + known * known)).sum(-1),
        (w * (2 * q * mean - mean * mean - 2 * p * error + spread)).sum(-1),
        ((w * q).sum(-1) ** 2 - (w * w * error).sum(-1)) / total,
        _per_logit(p, score, metric, q, error),
    )


def mean_logit_gradient(
    p: Float[Tensor, "n J"], score: Float[Tensor, "n J B"], q: Float[Tensor, "n J"]
) -> Float[Tensor, "n B"]:
    """E[u | state]."""
    return torch.einsum("nj,nj,njb->nb", p, q, score)


def _signal(p: Tensor, score: Tensor, metric: Tensor, q: Tensor) -> Float[Tensor, " n"]:
    """|E g|^2 of the mean credits, whose errors are not yet taken off."""
    mean = mean_logit_gradient(p, score, q)
    return torch.einsum("nb,nbc,nc->n", mean, metric, mean)


def _per_logit(
    p: Tensor, score: Tensor, metric: Tensor, q: Tensor, error: Tensor
) -> Float[Tensor, " n"]:
    slope = score * (score @ metric)
    inverse = torch.linalg.pinv(
        metric * torch.einsum("nj,njb,njc->nbc", p, score, score), rtol=_SINGULAR, hermitian=True
    )
    r = torch.einsum("nj,njb->nb", p * q, slope)
    lengths = torch.einsum("njb,nbc,njc->nj", slope, inverse, slope)
    return torch.einsum("nb,nbc,nc->n", r, inverse, r) - (p * p * error * lengths).sum(-1)
