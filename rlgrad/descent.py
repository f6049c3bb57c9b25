"""One rollout's steps of the policy and of the estimator's own parameters, as chains."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from rlgrad import diagnostics
from rlgrad.adam import SeedAdam
from rlgrad.config import Config
from rlgrad.estimators.base import Draw, Estimator, Objective
from rlgrad.estimators.convolution import ImageBlocks
from rlgrad.estimators.passes import Blocks
from rlgrad.estimators.pooling import Batch, Chain


def noted(batch: Batch, found: list[Batch]) -> Chain:
    """Put what the rows of all processes come to behind ``found``."""
    found.append((yield batch))


def policy_step(
    flat: Float[Tensor, "S P"],
    adam: SeedAdam,
    config: Config,
    policy: Blocks | ImageBlocks,
    logits: Tensor,
    u: Float[Tensor, "S T N D A"],
    weight: Float[Tensor, "S T N"],
    step_size: Float[Tensor, "S 1"],
    numbers: dict[str, Tensor],
) -> Chain:
    """Ascend the mean of u over valid rows; notes each seed's gradient norm ``[S]``.

    Args:
        flat: the policy's parameters.
        adam: their optimiser.
        config: hyperparameters.
        policy: an evaluation of the policy at the rows.
        logits: that came of it.
        u: estimates at the logits.
        weight: 1 for rows that count.
        step_size: per seed.
        numbers: by tag, that are logged.
    """
    ascent = u
    if config.entropy_coef:
        ascent = u + config.entropy_coef * diagnostics.entropy_slope(logits)
    count = weight.flatten(1).sum(1)
    descent = -(ascent * weight[..., None, None]) / count.clamp(min=1.0).view(-1, 1, 1, 1, 1)
    gradient = policy.parameters(descent.reshape(*policy.output.shape[:2], -1))
    (gradient,) = (yield Batch((gradient,), count)).numbers
    norm = numbers["gradient/norm"] = (gradient * gradient).sum(-1).sqrt()
    if config.max_grad_norm:
        # A norm that overflows would be clipped to a step of 0, and nobody would know.
        known = norm.where(norm.isfinite(), torch.nan)
        gradient = gradient * (config.max_grad_norm / known).clamp(max=1.0).unsqueeze(1)
    adam.step(flat, gradient, step_size)


def estimator_steps(
    estimator: Estimator,
    adams: list[SeedAdam],
    config: Config,
    draw: Draw,
    credit: Tensor,
    x: Tensor,
    f: Objective | None,
    along: Tensor,
    weight: Tensor,
    step_size: Tensor,
) -> Chain:
    """Train the estimator's own parameters, after its gradient: before would bias it.

    Args:
        estimator: that steps.
        adams: its optimisers, in the order of its parameters.
        config: hyperparameters.
        draw: of all rows.
        credit: ``[S, T, N]``.
        x: contexts.
        f: the critic of relaxed actions at the contexts that are learned from.
        along: the direction of its objective; see ``pullback.direction``.
        weight: ``[S, T, N]`` 1 for rows that count.
        step_size: per seed.
    """
    parameters = list(estimator.parameters())
    if not parameters:
        return
    if config.thinning > 1:
        given = *draw, credit, x, along, weight
        *drawn, credit, x, along, weight = (each[:, :: config.thinning] for each in given)
        draw = Draw(*drawn)
    count = weight.flatten(1).sum(1)
    for i in range(config.estimator_steps):
        # The first step knows the direction; later ones take that of the moved parameters.
        known = along if i == 0 or config.objective != "logits" else None
        gradients = estimator.loss_gradients(
            draw, credit, context=x, f=f, direction=known, weight=weight
        )
        pooled = yield Batch(tuple(gradients), count)
        for parameter, gradient, adam in zip(parameters, pooled.numbers, adams, strict=True):
            adam.step(parameter, gradient, step_size)
