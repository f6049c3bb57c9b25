"""The engine's agents on tabular MDPs: arbitrary networks, and the gradients of single lanes.

The seed axis serves as the axis of lanes: every seed is the same agent on a lane of its own, so
what ``Learner.update`` hands to the policy's optimiser is one lane's gradient.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from problems import randomise, seeded
from shipped import OWN
from tabular import MDPS, Tabular, Trajectories, joint, masked, model, pull, trajectories
from tabular_env import TabularEnv
from torch import Tensor

from rlgrad import card_files
from rlgrad.config import Config
from rlgrad.estimators import ESTIMATORS
from rlgrad.estimators.networks import SeedMLP
from rlgrad.estimators.statistics import RunningMean
from rlgrad.lanes import Lanes
from rlgrad.learner import Learner
from rlgrad.rollout import Rollout, collect

SCALE = 2.0  # value_scale: credits are divided by it
MONTE_CARLO = {"signal": "return-to-go", "gamma": 1.0}
# A card, and what is changed in it.
VARIANTS = {name: (name, {}) for name in OWN} | {
    "optimal": ("reinforce-constant", {"constant": "optimal"}),
    "optimal-per-logit": ("reinforce-constant", {"constant": "optimal-per-logit"}),
    "centred": ("reinforce-learned", {"centre": True}),
    "per-logit": ("learned-variance", {"per_logit": True}),
    "regression": ("all-action-control", {"fit": "regression"}),
    "relax-independent": ("relax-network", {"coupling": "independent"}),
    "relax-of-z": ("relax-network", {"temperature": 0.0}),
    "rebar-independent": ("rebar", {"coupling": "independent"}),
    "gumbel-rao": ("straight-through", {"estimator": "gumbel-rao", "draws": 3}),
    "reinmax": ("straight-through", {"estimator": "reinmax"}),
}
NOISY = {"gumbel-softmax", "straight-through", "gumbel-rao", "rebar", "relax", "relax-linear"}


def one_hot_observations(mdp: Tabular) -> Tabular:
    X = len(mdp.start)
    features = torch.cat([torch.eye(X), torch.full((1, X), 50.0)]).double()
    return mdp._replace(features=features)


def config_of(card: str, **overrides: Any) -> Config:
    """The card's, with small networks and a given scale of values; nothing clipped or added."""
    own = card_files.read_agent(card_files.find("agents")[card]).config
    fixed = {"hidden": (4,), "value_scale": SCALE, "entropy_coef": 0.0, "max_grad_norm": 0.0}
    chosen = {**own, **fixed, **overrides}
    if chosen.get("estimator") == "relax-linear":
        chosen.setdefault("width", 8)  # thousands of lanes each solve for their own weights
    return Config(**chosen)


def estimator_of(variant: str) -> str:
    card, changed = VARIANTS[variant]
    return config_of(card, **changed).estimator


UNBIASED = [each for each in VARIANTS if ESTIMATORS[estimator_of(each)].traits.unbiased]
ENUMERABLE = [each for each in UNBIASED if estimator_of(each) not in NOISY]


def agent(config: Config, mdp: Tabular, lanes: int, seed: int = 0) -> Learner:
    """The same agent ``lanes`` times, all of its networks and running means arbitrary."""
    F = mdp.features.shape[1]
    has_mask = mdp.mask is not None
    learner = Learner(config, F, mdp.sizes, list(range(lanes)), [1.0] * F, masked=has_mask)
    g = seeded(seed)
    randomise(learner, g)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.copy_(0.8 * parameter[:1].clone().expand_as(parameter))
        for module in learner.modules():
            if isinstance(module, RunningMean):
                row = 0.5 + torch.rand(module.mean.shape[1], generator=g)
                module.mean.copy_(row.expand_as(module.mean))
    return learner


def set_linear(network: SeedMLP, weight: Tensor) -> None:
    """Make all learners' network, which has no hidden layers, x -> x weight ``[in, out]``."""
    with torch.no_grad():
        network.flat.zero_()
        table = network.layers(network.flat)[-1][1]
        table[:, :, : weight.shape[1]] = weight.to(table)


def know_the_rewards(learner: Learner) -> None:
    """Q of the chain: 1/2 for action 1, whatever comes later; linear in the relaxed action."""
    set_linear(learner.action_critic.network, torch.tensor([[0.0], [0.0], [0.5 / SCALE]]))


def policy_of(learner: Learner, mdp: Tabular) -> tuple[Tensor, Tensor]:
    """(table ``[X, J]``, the parameters ``[P]`` that it is attached to) in float64."""
    inputs, (D, A) = mdp.features[:-1], learner.shape
    network = SeedMLP(inputs.shape[1], D * A, learner.config.hidden).double()
    with torch.no_grad():
        network.flat.copy_(learner.policy.flat[:1])
    logits = network(inputs.unsqueeze(0)).view(len(inputs), D, A)
    return joint(masked(mdp, logits)), network.flat


def critic_of(learner: Learner, mdp: Tabular) -> Tensor:
    """The critic at every state in units of reward ``[X]``, zero where there is none."""
    if learner.critic is None:
        return torch.zeros(len(mdp.start), dtype=torch.float64)
    x = mdp.features[:-1].to(learner.policy.flat.dtype)
    seen = x.expand(learner.seeds, -1, -1).contiguous()
    return SCALE * learner.critic(seen)[0].detach().double()


def exponential(learner: Learner, rows: int, generator: torch.Generator, copies: int = 1) -> Tensor:
    """Exp(1) noise, ``[S, T, 1, D, A]``, with K in front where there are K copies of it."""
    shape = learner.seeds, rows, 1, *learner.shape
    noise = torch.empty(shape if copies == 1 else (copies, *shape))
    return noise.exponential_(generator=generator).clamp_(min=torch.finfo(noise.dtype).tiny)


def sampled(
    learner: Learner, lanes: Lanes, rows: int, generator: torch.Generator, whole: bool
) -> Rollout:
    """A rollout from new episodes; ``whole``: one episode per lane, else they go on and on."""
    observation, _ = lanes.env.reset(seed=None if lanes.env.state is not None else 0)
    gumbel = -exponential(learner, rows, generator).log()
    alive = np.ones(learner.seeds, dtype=bool) if whole else None
    return collect(lanes, learner.actor(), observation.numpy(), gumbel, alive)[0]


def enumerated(learner: Learner, mdp: Tabular, each: Trajectories) -> Rollout:
    """Every trajectory in a lane of its own, collected by the engine; in float64."""
    env = TabularEnv(mdp, len(each.state))
    env.reset(seed=0)
    env.take(each)
    factors = np.unravel_index(each.action.numpy(), mdp.sizes)
    hot = torch.eye(mdp.sizes[0])[torch.from_numpy(np.stack(factors, -1))]
    gumbel = 1000.0 * hot.unsqueeze(2)  # far above any logits: it chooses the action
    start, alive = env.observe(np, env.state.numpy()), np.ones(env.num_envs, dtype=bool)
    rollout, _ = collect(Lanes(env), learner.actor(), start, gumbel, alive)
    assert torch.equal((rollout.reward * rollout.valid)[..., 0].double(), each.reward)
    return Rollout(*(x if x is None or not x.is_floating_point() else x.double() for x in rollout))


def lane_gradients(learner: Learner, rollout: Rollout, second: Tensor | None = None) -> Tensor:
    """What an update ascends, summed over each lane's valid rows ``[S, P]``; nothing moves."""
    given = []
    learner.policy_adam.step = lambda _, gradient, __: given.append(gradient)
    # What would train the other networks comes after the policy's gradient: left out.
    learner.config = replace(learner.config, estimator_steps=0, objective="logits")
    second = rollout.gumbel if second is None else second
    learner.update(rollout, second, torch.zeros(learner.seeds, 1).to(rollout.reward), 0)
    count = rollout.valid.flatten(1).sum(1, keepdim=True)
    return -given[0].double() * count


def row_gradients(learner: Learner, rollout: Rollout) -> Tensor:
    """The same for each row alone ``[T, S, P]``."""
    each = []
    for t in range(rollout.valid.shape[1]):
        alone = torch.zeros_like(rollout.valid)
        alone[:, t] = rollout.valid[:, t]
        each.append(lane_gradients(learner, rollout._replace(valid=alone)))
    return torch.stack(each)


def sampled_mean(
    learner: Learner,
    mdp: Tabular,
    rows: int,
    repeats: int,
    seed: int,
    *,
    whole: bool = True,
    spoil: Callable[[Learner, Rollout], Rollout] | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean gradient over lanes and repeats ``[P]``, and its standard error.

    ``spoil`` makes a mistake with each rollout. Running means go on from repeat to repeat, as they
    do in training: they hold earlier rollouts only.
    """
    lanes, g = Lanes(TabularEnv(mdp, learner.seeds)), seeded(seed)
    total = squares = torch.zeros((), dtype=torch.float64)
    for _ in range(repeats):
        rollout = sampled(learner, lanes, rows, g, whole)
        second = exponential(learner, rows, g, learner.estimator.relaxations)
        if spoil:
            rollout = spoil(learner, rollout)
        gradients = lane_gradients(learner, rollout, second)
        total, squares = total + gradients.sum(0), squares + (gradients**2).sum(0)
    n = learner.seeds * repeats
    mean = total / n
    return mean, ((squares / n - mean**2).clamp(min=0.0) / n).sqrt()


@functools.cache
def solved(name, rows=0):
    """(mdp, model, all trajectories)."""
    mdp = MDPS[name]
    return mdp, model(mdp), trajectories(mdp, rows or mdp.longest)


class Case:
    """An agent at every trajectory of an MDP, in float64."""

    def __init__(self, variant, name, rows=0, seed=0, mdp=None, prepare=None, **changed):
        own, self.m, each = solved(name, rows)
        self.mdp, (card, more) = mdp or own, VARIANTS[variant]
        config = config_of(card, **more | changed)
        self.learner = agent(config, self.mdp, len(each.state), seed)
        if prepare:
            prepare(self.learner)
        self.pi, self.parameters = policy_of(self.learner, self.mdp)
        self.rollout = enumerated(self.learner, self.mdp, each)
        self.probability = each.probability(self.pi).detach()
        self.learner.double()
        self.critic, self.rows = critic_of(self.learner, self.mdp), each.action.shape[1]

    def mean(self):
        """The agent's expected gradient ``[P]``, in units of reward."""
        lanes = lane_gradients(self.learner, self.rollout)
        return SCALE * (self.probability.unsqueeze(1) * lanes).sum(0)

    def pulled(self, weighted):
        """A gradient of dynamic programming ``[P]``; see ``tabular.pull``."""
        return pull(self.m, self.pi, weighted, self.parameters)[0]

    def gap(self, weighted):
        """Distance of the agent's mean from a gradient, relative to that gradient."""
        right = self.pulled(weighted)
        return float((self.mean() - right).norm() / right.norm())


def mean_over_rows(case: Case, lanes: int) -> tuple[Tensor, Tensor]:
    """E[sum of gradients / sum of lengths] over N lanes, and its limit; lengths by convolution."""
    gradients = SCALE * lane_gradients(case.learner, case.rollout)
    length = case.rollout.valid.flatten(1).sum(1)
    one = torch.zeros(case.rows + 1, dtype=torch.float64).index_add(0, length, case.probability)
    others = torch.ones(1, dtype=torch.float64)
    for _ in range(lanes - 1):
        rows = torch.zeros(len(others) + case.rows, dtype=torch.float64)
        for i, p in enumerate(one):
            rows[i : i + len(others)] += p * others
        others = rows
    total = length.unsqueeze(1) + torch.arange(len(others))
    share = lanes * (others / total).sum(1) * case.probability
    mean_length = (case.probability * length).sum()
    return (share.unsqueeze(1) * gradients).sum(0), case.mean() / mean_length
