"""What the gradient of an episode varies with at policies of the protocol, and what takes it away.

Two measurements at a frozen policy. ``rlgrad.lab.split`` sets the simulator back and splits the
variance of one step's term by its causes. ``measured`` plays fresh episodes and takes the variance
of the whole episode's gradient (trace of the covariance) under each baseline or control variate,
on the same episodes for all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from relax_arms import ACTIONS, FEATURES
from relax_paper import HIDDEN, PublicRelax
from relax_protocol import GAMMA, LIMIT, Episode, Group, episode, play
from torch import Tensor

from rlgrad.card_files import env_card
from rlgrad.config import Config
from rlgrad.estimators import build
from rlgrad.estimators.base import score
from rlgrad.lab.split import split
from rlgrad.lanes import Lanes
from rlgrad.learner import Learner
from rlgrad.make import make_training
from rlgrad.pullback import parameter_gradients

RANDOM = 64  # features of the fitted baseline
PARTS = ("action", "trajectory", "state")


def parts(group: Group, seeds: int, states: int, copies: int) -> dict[str, Any]:
    """Shares of the variance of a step's term R x score, means over the first seeds."""
    rows = []
    config = Config(
        signal="return-to-go", hidden=HIDDEN, activation="relu", gamma=GAMMA,
        max_episode_steps=LIMIT, observation_scale=(1.0,) * FEATURES, value_scale=1.0,
    )  # fmt: skip
    for i, seed in enumerate(group.seeds[:seeds]):
        learner = Learner(config, FEATURES, (ACTIONS,), [seed], config.observation_scale)
        learner.policy.flat.data.copy_(group.policy.flat.data[i : i + 1])
        found = split(
            learner, env_card("CartPole-v1"), config, states=states, copies=copies, seed=seed
        )
        names = ("variance", *PARTS, "value_baseline")
        values = {name: getattr(found, name).value.value for name in names}
        rows.append([*values.values(), found.along.value])
    variance, *mean, along = np.mean(rows, 0)
    shares = (float(x / variance) for x in mean)
    return dict(zip((*PARTS, "value_baseline"), shares, strict=True)) | {"along": float(along)}


def fresh(group: Group, lanes: int, seed: int) -> Episode:
    """Episodes of the policies as they stand, ``lanes`` of each learner."""
    S = len(group.seeds)
    env = Lanes(make_training(env_card("CartPole-v1"), S * lanes, LIMIT))
    generator = torch.Generator().manual_seed(seed)
    shape = S, LIMIT, lanes, 1, ACTIONS
    first, second = torch.empty(2, *shape).exponential_(generator=generator).clamp_(min=1e-30)
    starts = torch.randint(1 << 62, (S * lanes,), generator=generator).tolist()
    rollout = play(group.policy, env, starts, -first.log(), np.ones(S * lanes, dtype=bool))
    return episode(group.policy, rollout, second)


def fitted(e: Episode, half: int) -> Tensor:
    """``[S, T, N]`` least squares of returns on random features of state and time.

    Args:
        e: episodes, the first ``half`` of whose lanes are fitted to.
        half: lanes.
    """
    S, T, N = e.total.shape
    time = torch.arange(T).view(1, T, 1, 1).expand(S, T, N, 1) / LIMIT
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(FEATURES + 2, RANDOM, generator=generator)
    x = torch.cat([2 * e.x, time, torch.ones_like(time)], -1)
    features = torch.cat([x, (2 * x @ weight).tanh()], -1).double()
    seen = (features * e.weight.unsqueeze(-1))[:, :, :half].reshape(S, T * half, -1)
    goal = e.total[:, :, :half].reshape(S, T * half, 1).double()
    ridge = 1e-3 * torch.eye(seen.shape[-1], dtype=seen.dtype)
    solution = torch.linalg.solve(seen.mT @ seen + ridge, seen.mT @ goal)
    return (features.flatten(1, 2) @ solution).view(S, T, N).float()


def estimates(group: Group, e: Episode, half: int) -> dict[str, Tensor]:
    """Gradients at the logits ``[S, T, N, 1, 2]`` with each baseline that this arm has."""

    def less(baseline: Tensor | float) -> Tensor:
        return ((e.total - baseline) * e.weight)[..., None, None] * score(e.draw)

    found = {"none": less(0.0), "fitted": less(fitted(e, half))}
    if group.arm.critic in ("value", "mean value") and group.critic is not None:
        value = group.critic(e.x)
        steps = e.weight.sum(1, keepdim=True).clamp(min=1)
        found["V"] = less(value)
        found["mean V"] = less((value * e.weight).sum(1, keepdim=True) / steps)
    else:
        found["own"] = group.estimate(e)
    return found


def lane_gradients(group: Group, e: Episode, u: Tensor, half: int) -> Tensor:
    """``[S, N - half, P]`` gradients of whole episodes, of the lanes nothing was fitted to."""
    S, _, N = e.total.shape
    return parameter_gradients(group.policy, e.x, u, lanes=True).view(S, N, -1)[:, half:].double()


def product(x: Tensor) -> Tensor:
    """``[S]`` |E x|^2 without the bias that noise adds, from independent ``[S, N, P]``."""
    N = x.shape[1]
    return (x.sum(1).square().sum(-1) - x.square().sum((1, 2))) / (N * (N - 1))


@torch.no_grad()
def measured(group: Group, lanes: int, seed: int) -> dict[str, Any]:
    """Variance under each baseline over that under none: ratio of means over seeds, interval.

    With the public sampler also its bias: |mean - true mean| / |true mean|.
    """
    e, half = fresh(group, lanes, seed), lanes // 2
    variances, pulled = {}, {}
    for name, u in estimates(group, e, half).items():
        pulled[name] = g = lane_gradients(group, e, u, half)
        variances[name] = (g - g.mean(1, keepdim=True)).square().sum((1, 2)).numpy()
    row: dict[str, Any] = {
        name: ratio(x, variances["none"]) for name, x in variances.items() if name != "none"
    }
    row["length"] = float(e.weight.sum(1).mean())
    if isinstance(group.estimator, PublicRelax):
        row["bias"] = bias(group, e, pulled["own"], half)
    return row


def bias(group: Group, e: Episode, own: Tensor, half: int) -> float:
    """Of the public sampler, against the exact one with the same c, over all seeds."""
    control: Any = group.estimator.control
    exact = build("relax", 1, ACTIONS, FEATURES, len(own), coupling="independent", control=control)
    right = lane_gradients(group, e, group.estimate(e, exact), half)
    size = product(right).sum()
    return float((product(own - right).sum() / size).clamp(min=0).sqrt())


def ratio(x: np.ndarray, y: np.ndarray) -> list[float]:
    """(mean x / mean y, 95 % bootstrap bounds) over seeds."""
    picks = np.random.default_rng(0).integers(0, len(x), (2_000, len(x)))
    low, high = np.quantile(x[picks].mean(1) / y[picks].mean(1), [0.025, 0.975])
    return [float(x.mean() / y.mean()), float(low), float(high)]
