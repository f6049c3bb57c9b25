"""The paper's protocol on CartPole: one episode an update, all arms and seeds on one axis.

Learners of all arms act together as one stacked policy; each arm turns its own rows into gradients
at the logits and trains what it has beside the policy. Gradients are summed over the steps of an
episode, as in the public code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from relax_arms import ACTIONS, ARMS, FEATURES, Arm
from relax_paper import HIDDEN, Control, broadcast_advantage
from torch import Tensor

from rlgrad import returns
from rlgrad.acting import Forward
from rlgrad.adam import SeedAdam
from rlgrad.card_files import env_card
from rlgrad.config import Config
from rlgrad.critics import ActionValue, Critic
from rlgrad.diagnostics import entropy_slope
from rlgrad.estimators import Draw, Estimator, one_hot
from rlgrad.estimators.networks import SeedMLP
from rlgrad.lanes import Lanes
from rlgrad.make import make_training
from rlgrad.pullback import direction, parameter_gradients
from rlgrad.rollout import collect
from rlgrad.streams import Purpose, Streams, by_step, derive

LIMIT, GAMMA, ENTROPY, BETA2 = 200, 0.99, 0.01, 0.99999
SOLVED, WINDOW = 195.0, 100
NETWORKS = Config(hidden=HIDDEN, activation="relu", adam_beta2=BETA2)


@lru_cache(maxsize=512)
def orthogonal_weight(seed: int, number: int, shapes: tuple[tuple[int, int], ...]) -> list[Tensor]:
    """Matrices of gain sqrt(2), ``[fan_in, out]`` each, that a seed and a network's number give."""
    rng = np.random.default_rng([seed, number])
    found = []
    for shape in shapes:
        u, _, v = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
        found.append(torch.tensor(2**0.5 * (u if u.shape == shape else v)))
    return found


def orthogonal(network: SeedMLP, seeds: Sequence[int], number: int) -> None:
    """Orthogonal weights of gain sqrt(2) in every layer and zero biases, from each seed."""
    with torch.no_grad():
        network.flat.zero_()
        for row, seed in enumerate(seeds):
            drawn = orthogonal_weight(seed, number, tuple(map(tuple, network.used)))
            for (_, weight), each in zip(network.layers(network.flat), drawn, strict=True):
                weight[row, : each.shape[0], : each.shape[1]] = each


class Episode(NamedTuple):
    """An episode of each learner, cut where the longest ends."""

    x: Tensor
    """``[S, T, N, 4]`` observations."""
    draw: Draw
    """Logits ``[S, T, N, 1, 2]``, noise and actions."""
    total: Tensor
    """``[S, T, N]`` discounted return to go; 0 after the end."""
    weight: Tensor
    """``[S, T, N]`` 1 for steps of the episode."""


def play(policy: SeedMLP, lanes: Lanes, seeds: Sequence[int], noise: Tensor, alive: Any) -> Any:
    """A rollout of whole episodes, gumbel noise ``[S, T, N, 1, 2]``; see ``collect``."""
    S, _, N = noise.shape[:3]
    act = Forward(policy)
    observation = lanes.reset(seeds)
    rollout, _ = collect(
        lanes, lambda x: act(x).reshape(S, N, 1, ACTIONS), observation, noise, alive
    )
    return rollout


def episode(policy: SeedMLP, rollout: Any, second: Tensor) -> Episode:
    """What estimators see of a rollout, or of some learners' rows of it."""
    longest = int(rollout.valid.any(2).any(0).sum())
    cut = slice(0, max(longest, 1))
    weight = rollout.valid[:, cut].to(torch.float32)
    done = (rollout.terminated | rollout.truncated)[:, cut]
    total = returns.return_to_go(rollout.reward[:, cut] * weight, done, GAMMA) * weight
    x = rollout.observation[:, cut].contiguous()
    with torch.no_grad():
        logits = policy(x).unsqueeze(-2)
    draw = Draw(logits, rollout.gumbel[:, cut], second[:, cut], rollout.action[:, cut])
    return Episode(x, draw, total, weight)


class Group:
    """The learners of one arm.

    Args:
        arm: which.
        seeds: S.
        rates: ``[S, 2]`` step sizes of the policy and of all else.
        flat: ``[S, P]`` where the policy's parameters live.
    """

    def __init__(self, arm: Arm, seeds: Sequence[int], rates: Tensor, flat: Tensor) -> None:
        self.arm, self.seeds, self.rates = arm, list(seeds), rates
        S = len(self.seeds)
        self.policy = SeedMLP(FEATURES, ACTIONS, HIDDEN, S, activation="relu")
        self.policy.flat.data = flat
        self.estimator = arm.make(S)
        inputs = FEATURES + ACTIONS * (arm.critic == "action value")
        self.critic = Critic(inputs, NETWORKS, S) if arm.critic else None
        networks = [self.policy, *([self.critic.network] if self.critic else [])]
        networks += [m.network for m in self.estimator.modules() if isinstance(m, Control)]
        for number, network in enumerate(networks):
            orthogonal(network, self.seeds, number)
        self.adam = SeedAdam(self.policy.flat, beta2=BETA2)
        self.adams = [SeedAdam(p, beta2=BETA2) for p in self.estimator.parameters()]

    def credit(self, e: Episode) -> Tensor:
        """``[S, T, N]``: returns, less the critic's value where it is one of states."""
        if self.critic is None or self.arm.critic == "action value":
            return e.total
        value = self.critic(e.x)
        if self.arm.critic == "mean value":
            return broadcast_advantage(e.total, value, e.weight)
        return (e.total - value) * e.weight

    def action_value(self, x: Tensor) -> ActionValue | None:
        """F of estimators that differentiate it."""
        if self.critic is None or self.arm.critic != "action value":
            return None
        return ActionValue(self.critic, x)

    def estimate(self, e: Episode, estimator: Estimator | None = None) -> Tensor:
        """Gradients at the logits ``[S, T, N, 1, 2]``, 0 after the end; by another estimator."""
        estimator, f = estimator or self.estimator, self.action_value(e.x)
        u = estimator.gradient(e.draw, self.credit(e), context=e.x, f=f)
        return u * e.weight[..., None, None]

    @torch.no_grad()
    def update(self, e: Episode, alive: Tensor) -> None:
        """One step of everything, of the learners that are alive ``[S, 1]``."""
        credit, u, step = self.credit(e), self.estimate(e), self.rates * alive
        along = u
        if self.estimator.descends_variance:
            along = direction(self.arm.objective, self.policy, e.x, u)
        slope = ENTROPY * entropy_slope(e.draw.logits) * e.weight[..., None, None]
        gradient = -parameter_gradients(self.policy, e.x, u + slope, lanes=False)
        self.adam.step(self.policy.flat, gradient, step[:, :1])
        if self.critic is not None:
            self._regress(self.critic, e, step[:, 1:])
        self._learn(e, credit, along, step[:, 1:])
        self.estimator.observe(e.draw, credit, context=e.x, weight=e.weight)

    def _regress(self, critic: Critic, e: Episode, step: Tensor) -> None:
        """A step of V or Q on half the squared error, summed over the episode."""
        x = e.x
        if self.arm.critic == "action value":
            x = torch.cat([x, one_hot(e.draw).flatten(-2)], -1)
        trace = critic.network.trace(x)
        rows = *trace.output.shape[:2], 1
        error = (trace.output[..., :1] - e.total.reshape(rows)) * e.weight.reshape(rows)
        critic.adam.step(critic.network.flat, trace.parameters(error), step)

    def _learn(self, e: Episode, credit: Tensor, along: Tensor, step: Tensor) -> None:
        """A step of the estimator's own parameters, on the sum over the episode."""
        parameters = list(self.estimator.parameters())
        if not parameters:
            return
        steps = e.weight.flatten(1).sum(1, keepdim=True)
        given = {"context": e.x, "f": self.action_value(e.x), "weight": e.weight}
        gradients = self.estimator.loss_gradients(e.draw, credit, direction=along, **given)
        for parameter, gradient, adam in zip(parameters, gradients, self.adams, strict=True):
            adam.step(parameter, gradient * steps, step)


Settings = Mapping[str, Sequence[tuple[int, float, float]]]
"""Of each arm its learners: (seed, step size of the policy, step size of all else)."""


class Study:
    """All learners of all arms, one after another on the first axis.

    Args:
        settings: who takes part.
    """

    def __init__(self, settings: Settings) -> None:
        self.seeds = [seed for rows in settings.values() for seed, *_ in rows]
        L = len(self.seeds)
        self.policy = SeedMLP(FEATURES, ACTIONS, HIDDEN, L, activation="relu")
        self.groups: dict[str, Group] = {}
        self.rows: dict[str, slice] = {}
        start = 0
        for name, rows in settings.items():
            part = self.rows[name] = slice(start, start + len(rows))
            rates = torch.tensor([each[1:] for each in rows], dtype=torch.float32)
            seeds, flat = [each[0] for each in rows], self.policy.flat.data[part]
            self.groups[name] = Group(ARMS[name], seeds, rates, flat)
            start = part.stop
        self.lanes = Lanes(make_training(env_card("CartPole-v1"), L, LIMIT))
        self.streams = Streams(self.seeds)
        self.returns = np.zeros((0, L))
        self.solved = np.zeros(L, dtype=np.int64)
        """``[L]`` the episode after which each learner was solved; 0: not."""
        self.idle = np.zeros(L, dtype=bool)
        """``[L]`` learners that are to stand still, solved or not."""

    @property
    def alive(self) -> np.ndarray:
        """``[L]`` which learners train on."""
        return (self.solved == 0) & ~self.idle

    def step(self) -> None:
        """One episode and one update of each learner that is alive."""
        number, alive = len(self.returns), self.alive
        first, second = (
            by_step(self.streams.exponential(p, number, 1, LIMIT * ACTIONS), 1, LIMIT, 1, ACTIONS)
            for p in (Purpose.ACTION, Purpose.RELAXATION)
        )
        starts = [derive(seed, Purpose.LANE_SEED, 0, number) for seed in self.seeds]
        rollout = play(self.policy, self.lanes, starts, -first.log(), alive)
        got = (rollout.reward * rollout.valid).sum((1, 2)).numpy()
        self.returns = np.vstack([self.returns, np.where(alive, got, np.nan)])
        if number + 1 >= WINDOW:
            mean = self.returns[-WINDOW:].mean(0)
            self.solved[alive & (mean >= SOLVED)] = number + 1
        alive = self.alive
        for name, group in self.groups.items():
            part = self.rows[name]
            if alive[part].any():
                own = type(rollout)(*(None if x is None else x[part] for x in rollout))
                still = torch.tensor(alive[part]).unsqueeze(1)
                group.update(episode(group.policy, own, second[part]), still)

    def run(self, episodes: int, watch: Callable[[int], None] = lambda number: None) -> None:
        """Train until none is alive, or so many episodes; ``watch`` hears of each."""
        while len(self.returns) < episodes and self.alive.any():
            watch(len(self.returns))
            self.step()
        watch(len(self.returns))
