"""Numbers about one update, per seed; computed where they are logged, never part of training."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from rlgrad.estimators.base import Draw, score
from rlgrad.estimators.convolution import SeedConv
from rlgrad.estimators.networks import SeedMLP
from rlgrad.estimators.statistics import per_seed_mean
from rlgrad.pullback import parameter_gradients


def entropy(log_p: Float[Tensor, "*batch D A"]) -> Float[Tensor, "*batch"]:
    """Entropy in nats of the joint choice; masked categories count nothing."""
    p = log_p.exp()
    return -torch.where(p > 0, p * log_p, 0.0).sum((-2, -1))


def entropy_slope(logits: Float[Tensor, "*batch D A"]) -> Float[Tensor, "*batch D A"]:
    """Gradient of each factor's entropy at its logits; zero for masked categories."""
    log_p = logits.log_softmax(-1)
    p = log_p.exp()
    h = -torch.where(p > 0, p * log_p, 0.0).sum(-1, keepdim=True)
    return torch.where(p > 0, -p * (log_p + h), 0.0)


def explained_variance(
    prediction: Float[Tensor, "*batch"], target: Float[Tensor, "*batch"], weight: Tensor
) -> Float[Tensor, " S"]:
    """1 - Var[target - prediction] / Var[target] per seed; NaN for a constant target."""
    seeds = prediction.shape[0]

    def variance(x: Tensor) -> Tensor:
        return per_seed_mean(x * x, weight, seeds) - per_seed_mean(x, weight, seeds) ** 2

    total = variance(target)
    return torch.where(total > 0, 1 - variance(target - prediction) / total, torch.nan)


def gradient_noise(
    policy: SeedMLP | SeedConv,
    x: Tensor,
    u: Float[Tensor, "S T N D A"],
    weight: Float[Tensor, "S T N"],
) -> dict[str, Float[Tensor, " S"]]:
    """Total variance and signal-to-noise of the batch's parameter gradient, from its N lanes.

    Lanes are independent given the parameters, so the spread of their gradients measures the
    variance of their mean: trace of the covariance / N. The signal |mean|^2 is corrected by that
    variance and may come out as 0. Without a second lane nothing is reported.
    """
    S, _, N = weight.shape
    if N < 2:
        return {}
    counted = u * weight[..., None, None]
    lanes = parameter_gradients(policy, x, counted, lanes=True).view(S, N, -1)
    lanes = lanes * (N / weight.flatten(1).sum(1).clamp(min=1.0)).view(S, 1, 1)
    mean = lanes.mean(1)
    variance = ((lanes - mean.unsqueeze(1)) ** 2).sum((1, 2)) / (N - 1) / N
    signal = ((mean * mean).sum(1) - variance).clamp(min=0.0)
    return {"gradient/variance": variance, "gradient/snr": signal / variance.clamp(min=1e-30)}


def control_variate(
    draw: Draw, credit: Float[Tensor, "S T N"], u: Float[Tensor, "S T N D A"], weight: Tensor
) -> dict[str, Float[Tensor, " S"]]:
    """What the control variate does to the estimate at the logits.

    ``gradient/square`` is mean |u|^2, ``gradient/variance_ratio`` the same relative to the estimate
    without c;
    ``gradient/control_variate_correlation`` the (uncentred) correlation of what c subtracts with
    what it is subtracted from.
    """
    S = credit.shape[0]
    plain = credit[..., None, None] * score(draw)
    removed = plain - u

    def mean(x: Tensor) -> Tensor:
        return per_seed_mean(x.sum((-2, -1)), weight, S)

    square, plain_square, removed_square = (mean(x * x) for x in (u, plain, removed))
    scale = (plain_square * removed_square).sqrt().clamp(min=1e-30)
    return {
        "gradient/square": square,
        "gradient/variance_ratio": square / plain_square.clamp(min=1e-30),
        "gradient/control_variate_correlation": mean(plain * removed) / scale,
    }


@torch.no_grad()
def update_numbers(
    policy: SeedMLP | SeedConv,
    x: Tensor,
    draw: Draw,
    credit: Tensor,
    u: Tensor,
    weight: Tensor,
    varied: bool,
) -> dict[str, Float[Tensor, " S"]]:
    """What is logged of a policy update, taken before the policy moves.

    Args:
        policy: network.
        x: ``[S, T, N, F]`` that it saw.
        draw: its choices.
        credit: ``[S, T, N]``.
        u: ``[S, T, N, D, A]`` estimates at the logits.
        weight: ``[S, T, N]`` 1 for rows that count.
        varied: whether the estimator has a control variate, of which more is told.
    """
    S = credit.shape[0]
    log_p = draw.logits.log_softmax(-1)
    chosen = log_p.gather(-1, draw.action.unsqueeze(-1)).squeeze(-1).sum(-1)
    return {
        "train/policy_loss": -per_seed_mean(chosen * credit, weight, S),
        "train/entropy": per_seed_mean(entropy(log_p), weight, S),
        **gradient_noise(policy, x, u, weight),
        **(control_variate(draw, credit, u, weight) if varied else {}),
    }


def critic_numbers(
    credit: Tensor, target: Tensor, weight: Tensor
) -> dict[str, Float[Tensor, " S"]]:
    """What is logged of the critic's regression, in units of the value scale."""
    value = target - credit
    loss = per_seed_mean(0.5 * (value - target) ** 2, weight, value.shape[0])
    return {
        "train/value_loss": loss,
        "train/explained_variance": explained_variance(value, target, weight),
    }
