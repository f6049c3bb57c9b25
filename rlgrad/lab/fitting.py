"""What is fitted before measuring: critics, baselines and control variates, on data of their own.

Everything descends by Adam on fresh batches of the fitting part, with a step size that falls to
zero; of what was passed on the way, the best on the validation part is kept, so that a control
variate that only learned the fitting part by heart is not used.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from rlgrad.adam import SeedAdam
from rlgrad.critics import Critic
from rlgrad.estimators.base import Estimator
from rlgrad.lab.data import Data, chosen_actions
from rlgrad.lab.freeze import Frozen, seeded
from rlgrad.lab.sampling import Sample
from rlgrad.pullback import direction
from rlgrad.returns import return_to_go

STEPS, CRITIC_STEPS, BATCH, RATE = 300, 1200, 1024, 0.02
CHECKS = 10  # looks at the validation part along a fit
ROUNDS = 8  # of the critic: its targets hold its own values
OBSERVED = 16  # batches that running statistics see


def _batches(count: int, size: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Random rows, each once per pass."""
    generator = torch.Generator().manual_seed(seed)
    size, order = min(size, count), torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(order) < size:
            order = torch.randperm(count, generator=generator)
        yield order[:size]
        order = order[size:]


def _rate(step: int, steps: int) -> Tensor:
    """Falling by a cosine: ``[1, 1]``."""
    return torch.full((1, 1), RATE * 0.5 * (1 + math.cos(math.pi * step / steps)))


def _best(
    module: nn.Module,
    steps: int,
    step: Callable[[int], None],
    judge: Callable[[], float],
) -> bool:
    """Take steps; leave the module as it was when it was judged best.

    Returns:
        Whether that was not at the start.
    """
    start = best = judge()
    kept = copy.deepcopy(module.state_dict())
    for i in range(steps):
        step(i)
        if (i + 1) % max(1, steps // CHECKS) == 0 or i + 1 == steps:
            now = judge()
            if now < best:
                best, kept = now, copy.deepcopy(module.state_dict())
    module.load_state_dict(kept)
    return best < start


def _regressed(critic: Critic, x: Tensor, goal: Tensor, i: int, steps: int, index: Tensor) -> None:
    """One step of a critic on some rows."""
    rows, target = x[:, index], goal[:, index]
    critic.fit(rows, target, torch.ones_like(target), _rate(i, steps), 1)


def fit_critic(frozen: Frozen, sample: Sample, seed: int, steps: int = CRITIC_STEPS) -> None:
    """Fit the critic to the agent's own targets, whose values are renewed from time to time.

    A fresh policy also gets its running statistics from this sample, as its first rollout would
    give them; the policy's function stays.
    """
    learner, rollout = frozen.learner, sample.rollout
    if frozen.checkpoint is None:
        reward = rollout.reward * rollout.valid
        ended = rollout.terminated | rollout.truncated
        learner.adapt(rollout, return_to_go(reward, ended, frozen.config.gamma))
    if learner.critic is None or not frozen.fits_critic:
        return
    seen = learner.see(torch.cat([rollout.observation, rollout.last.unsqueeze(1)], 1))
    x = seen[:, :-1][rollout.valid].unsqueeze(0)
    learner.critic.adam = SeedAdam(learner.critic.network.flat)
    for i, index in enumerate(_batches(x.shape[1], BATCH, steps, seed)):
        if i % max(1, steps // ROUNDS) == 0:
            _, target = learner.credit(rollout, learner.critic.network.trace(seen))
            goal = target[rollout.valid].unsqueeze(0)
        _regressed(learner.critic, x, goal, i, steps, index)


def fit_action_critic(
    frozen: Frozen, data: Data, held_out: Data, seed: int, steps: int = STEPS
) -> bool:
    """Learn Q(observation, relaxed action) of the credit, as agents with an action critic do.

    Returns:
        Whether it became better than its initial parameters on the held-out lanes.
    """
    inputs, size = chosen_actions(data), data.size
    with seeded(seed):
        critic = Critic(inputs.shape[-1], frozen.config, 1)
    batches = list(_batches(inputs.shape[1], BATCH, steps, seed))
    goal, new = data.credit / size, chosen_actions(held_out)

    def judge() -> float:
        with torch.no_grad():
            return float((critic(new) - held_out.credit / size).square().mean())

    improved = _best(
        critic, steps, lambda i: _regressed(critic, inputs, goal, i, steps, batches[i]), judge
    )  # fmt: skip
    critic.network.rescale(torch.full((1, 1), size))
    frozen.learner.action_critic = critic
    return improved


def squared_norm(data: Data, u: Tensor, objective: str) -> float:
    """Mean square of an estimate in the norm of an objective; what a control variate descends."""
    if objective == "logits":
        return float(u.double().square().sum()) / u.shape[1]
    lanes = data.pulled(u)
    lanes = lanes.mean(0, keepdim=True) if objective == "batch" else lanes
    return float(lanes.double().square().sum(-1).mean())


def judged(estimator: Estimator, data: Data, objective: str) -> float:
    """What an estimator descends, on data that it was not fitted to."""
    if estimator.descends_variance:
        return squared_norm(data, data.gradient(estimator), objective)
    with torch.no_grad():
        loss = estimator.loss(data.draw, data.credit, context=data.x, f=data.f)
    assert loss is not None
    return float(loss)


def fit(
    estimator: Estimator,
    data: Data,
    held_out: Data,
    objective: str,
    seed: int,
    steps: int = STEPS,
) -> bool:
    """Train an estimator's own parameters, then fit its running statistics.

    Args:
        estimator: with one seed.
        data: fitting part.
        held_out: validation part.
        objective: "logits", "environment" or "batch": whose squared norm is descended.
        seed: of the order of batches.
        steps: of Adam.

    Returns:
        False where parameters were trained and none were better than the initial ones on the
        held-out lanes.
    """
    improved = True
    parameters = list(estimator.parameters())
    by_row = objective == "logits" or not estimator.descends_variance
    count = len(data.column) if by_row else data.columns
    size = BATCH if by_row else max(2, BATCH // data.length)
    if parameters and steps:
        adams = [SeedAdam(each) for each in parameters]
        batches = list(_batches(count, size, steps, seed))

        def step(i: int) -> None:
            part = data.rows(batches[i]) if by_row else data.some(batches[i])
            given = _given(estimator, part, "logits" if by_row else objective)
            gradients = estimator.loss_gradients(part.draw, part.credit, **given)
            for each, gradient, adam in zip(parameters, gradients, adams, strict=True):
                adam.step(each.detach(), gradient, _rate(i, steps))

        improved = _best(estimator, steps, step, lambda: judged(estimator, held_out, objective))
    if estimator.observes:
        rows = len(data.column)
        for index in _batches(rows, -(-rows // OBSERVED), OBSERVED, seed + 1):
            part = data.rows(index)
            estimator.observe(part.draw, part.credit, context=part.x)
    return improved


def _given(estimator: Estimator, part: Data, objective: str) -> dict[str, Any]:
    """Arguments of ``loss_gradients`` beside draw and value."""
    given: dict[str, Any] = {"context": part.x, "f": part.f}
    if objective != "logits":
        u = part.grid(part.gradient(estimator))
        along = direction(objective, part.learner.policy, part.grid(part.x), u)
        given["direction"] = along[:, part.time, part.column]
    return given
