"""Numbers about one update, per seed; computed where they are logged, never part of training."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from rlgrad.estimators.base import Draw, score
from rlgrad.estimators.convolution import SeedConv
from rlgrad.estimators.networks import SeedMLP
from rlgrad.estimators.pooling import ALONE, Batch, Pool
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


def _means(numbers: list[Tensor], weight: Float[Tensor, "S T N"], pool: Pool) -> tuple[Tensor, ...]:
    """Means ``[S]`` of numbers ``[S, ...]`` over the rows that count, of all processes."""
    each = tuple(per_seed_mean(x, weight, len(weight)) for x in numbers)
    return pool.pooled(Batch(each, weight.flatten(1).sum(1))).numbers


def explained_variance(
    prediction: Float[Tensor, "*batch"],
    target: Float[Tensor, "*batch"],
    weight: Tensor,
    pool: Pool = ALONE,
) -> Float[Tensor, " S"]:
    """1 - Var[target - prediction] / Var[target] per seed; NaN for a constant target."""
    left = target - prediction
    numbers = [target * target, target, left * left, left]
    square, mean, left_square, left_mean = _means(numbers, weight, pool)
    total = square - mean**2
    return torch.where(total > 0, 1 - (left_square - left_mean**2) / total, torch.nan)


def gradient_noise(
    policy: SeedMLP | SeedConv,
    x: Tensor,
    u: Float[Tensor, "S T N D A"],
    weight: Float[Tensor, "S T N"],
    pool: Pool = ALONE,
) -> dict[str, Float[Tensor, " S"]]:
    """Total variance and signal-to-noise of the batch's parameter gradient, from its N lanes.

    Lanes are independent given the parameters, so the spread of their gradients measures the
    variance of their mean: trace of the covariance / N. The signal |mean|^2 is corrected by that
    variance and may come out as 0. Without a second lane nothing is reported.
    """
    S, _, here = weight.shape
    N = here * pool.size
    if N < 2:
        return {}
    counted, rows = u * weight[..., None, None], weight.flatten(1).sum(1)
    lanes = parameter_gradients(policy, x, counted, lanes=True).view(S, here, -1)
    lanes = lanes * (here / rows.clamp(min=1.0)).view(S, 1, 1)
    own = lanes.mean(1)
    (mean,), every, _ = pool.pooled(Batch((own,), rows))
    assert every is not None
    # What this process's lanes were scaled by, in terms of all processes' rows; alone it is 1.
    factor = pool.size * rows.clamp(min=1.0) / every.clamp(min=1.0)
    apart = (own * factor.unsqueeze(1) - mean).square().sum(1) * here
    within = ((lanes - own.unsqueeze(1)) ** 2).sum((1, 2)) * factor * factor
    (spread,) = pool.pooled(Batch((within + apart,))).numbers
    variance = spread / (N - 1) / N
    signal = ((mean * mean).sum(1) - variance).clamp(min=0.0)
    return {"gradient/variance": variance, "gradient/snr": signal / variance.clamp(min=1e-30)}


def control_variate(
    draw: Draw,
    credit: Float[Tensor, "S T N"],
    u: Float[Tensor, "S T N D A"],
    weight: Tensor,
    pool: Pool = ALONE,
) -> dict[str, Float[Tensor, " S"]]:
    """What the control variate does to the estimate at the logits.

    ``gradient/square`` is mean |u|^2, ``gradient/variance_ratio`` the same relative to the estimate
    without c;
    ``gradient/control_variate_correlation`` the (uncentred) correlation of what c subtracts with
    what it is subtracted from.
    """
    plain = credit[..., None, None] * score(draw)
    removed = plain - u
    products = (u, u), (plain, plain), (removed, removed), (plain, removed)
    sums = [(x * y).sum((-2, -1)) for x, y in products]
    square, plain_square, removed_square, both = _means(sums, weight, pool)
    scale = (plain_square * removed_square).sqrt().clamp(min=1e-30)
    return {
        "gradient/square": square,
        "gradient/variance_ratio": square / plain_square.clamp(min=1e-30),
        "gradient/control_variate_correlation": both / scale,
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
    pool: Pool = ALONE,
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
        pool: the processes that the rows are spread over.
    """
    log_p = draw.logits.log_softmax(-1)
    chosen = log_p.gather(-1, draw.action.unsqueeze(-1)).squeeze(-1).sum(-1)
    gain, spread = _means([chosen * credit, entropy(log_p)], weight, pool)
    return {
        "train/policy_loss": -gain,
        "train/entropy": spread,
        **gradient_noise(policy, x, u, weight, pool),
        **(control_variate(draw, credit, u, weight, pool) if varied else {}),
    }


def critic_numbers(
    credit: Tensor, target: Tensor, weight: Tensor, pool: Pool = ALONE
) -> dict[str, Float[Tensor, " S"]]:
    """What is logged of the critic's regression, in units of the value scale."""
    value = target - credit
    (loss,) = _means([0.5 * (value - target) ** 2], weight, pool)
    return {
        "train/value_loss": loss,
        "train/explained_variance": explained_variance(value, target, weight, pool),
    }
