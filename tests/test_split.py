"""The split of a gradient's variance: against enumeration, identities, and what it refuses.

Seed rule: literals shown here, none chosen by its outcome. Chance of failing by luck: the test
against enumeration makes 11 comparisons per case with ``Z_BOUND``, which ``problems`` counts; the
standard error is the bootstrap interval's, over 8192 states known to some 3 %.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import ClassVar, NamedTuple

import gymnasium
import jaxtyping
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, MultiDiscrete
from problems import Z_BOUND, seeded
from tabular import Tabular
from tabular_agents import Case, agent, config_of, critic_of, lane_gradients, policy_of
from tabular_gym import some_agent, with_number_observed
from torch import Tensor

from rlgrad.cards import EnvCard, resolve
from rlgrad.config import Config
from rlgrad.errors import UsageError
from rlgrad.estimators.networks import SeedMLP
from rlgrad.lab.parts import Parts
from rlgrad.lab.split import _assembled, _mean_product, split
from rlgrad.learner import Learner
from rlgrad.options import Options
from rlgrad.simulators import SIMULATORS
from rlgrad.simulators.base import TorchVectorEnv
from rlgrad.simulators.single import SingleLane
from rlgrad.trainer import Trainer

SCALE = 2.0


class Known(NamedTuple):
    """Rows of rollouts by (state, rows left): all that an enumeration needs."""

    weight: Tensor
    """``[n]`` of each row, sums to 1."""
    p: Tensor
    """``[n, A]``."""
    q: Tensor
    """``[n, A]`` mean credit."""
    noise: Tensor
    """``[n, A]`` variance of the credit."""
    g: Tensor
    """``[n, A, P]`` score of each action, pulled back; to be multiplied by the credit."""
    score: Tensor
    """``[n, A, A]``."""
    jacobian: Tensor
    """``[n, A, P]``."""
    value: Tensor
    """``[n]``."""


def credit_moments(mdp: Tabular, pi: Tensor, value: Tensor, config: Config, rows: int):
    """Mean and variance of the credit ``[rows, X, A]``, by rows left (1 first), in value scales."""
    X = len(mdp.start)
    end = mdp.successor == X
    after = torch.cat([value, value.new_zeros(1)])[mdp.successor]
    delta = mdp.reward / SCALE + config.gamma * after - value.view(-1, 1, 1)
    decay = config.gamma * (config.gae_lambda if config.signal == "gae" else 1.0)
    first, second = torch.zeros(X + 1, dtype=torch.float64), torch.zeros(X + 1, dtype=torch.float64)
    means, squares = [], []
    for _ in range(rows):
        later, squared = first[mdp.successor] * ~end, second[mdp.successor] * ~end
        mean = (mdp.probability * (delta + decay * later)).sum(-1)
        square = delta**2 + 2 * decay * delta * later + decay**2 * squared
        means.append(mean)
        squares.append((mdp.probability * square).sum(-1))
        first[:X], second[:X] = (pi * means[-1]).sum(-1), (pi * squares[-1]).sum(-1)
    q = torch.stack(means)
    return q, torch.stack(squares) - q**2


def visited(mdp: Tabular, pi: Tensor, T: int, rollouts: int, whole: bool) -> Tensor:
    """How often a row is met ``[rows left, X]``, played forward with the time of the episode."""
    X, L = len(mdp.start), mdp.longest if mdp.limited else 10**9
    onward = torch.zeros(X, X + 1, dtype=torch.float64)
    for x in range(X):
        for k in range(mdp.probability.shape[2]):
            onward[x].index_add_(0, mdp.successor[x, :, k], pi[x] * mdp.probability[x, :, k])
    now, met = {0: mdp.start.clone()}, torch.zeros(T, X, dtype=torch.float64)
    for t in range(T * rollouts):
        then: dict[int, Tensor] = {}
        for e, here in now.items():
            met[min(T - t % T, L - e) - 1] += here / rollouts
            goes_on = (here @ onward)[:X] * (e + 1 < L)
            if e + 1 < L:
                then[e + 1] = goes_on
            if not whole:
                then[0] = then.get(0, 0) + (here.sum() - goes_on.sum()) * mdp.start
        now = then
    return met


def jacobians(learner: Learner, mdp: Tabular) -> Tensor:
    """Slopes of the logits in every state ``[X, A, P]``, by autograd."""
    inputs, (_, A) = mdp.features[:-1], learner.shape
    network = SeedMLP(inputs.shape[1], A, learner.config.hidden).double()
    flat = learner.policy.flat.detach().double()
    slopes = torch.func.jacrev(lambda each: network(inputs.unsqueeze(0), each)[0])(flat)
    return slopes[:, :, 0]


def known(learner: Learner, mdp: Tabular, config: Config, T: int, rollouts: int) -> Known:
    pi = policy_of(learner, mdp)[0].detach()
    value = critic_of(learner, mdp) / SCALE
    whole = config.signal == "return-to-go"
    q, noise = credit_moments(mdp, pi, value, config, T)
    met = visited(mdp, pi, T, rollouts, whole)
    m, x = met.nonzero().unbind(1)
    score = torch.eye(pi.shape[1], dtype=torch.float64) - pi.unsqueeze(1)
    slopes = jacobians(learner, mdp)
    return Known(
        met[m, x] / met.sum(),
        pi[x],
        q[m, x],
        noise[m, x],
        (score @ slopes)[x],
        score[x],
        slopes[x],
        value[x],
    )


def at_logits(k: Known) -> Known:
    return k._replace(g=k.score, jacobian=torch.eye(k.p.shape[1]).double().expand_as(k.score))


def parts(k: Known) -> dict[str, float]:
    """By the definitions, from the vectors themselves; the best baselines by least squares."""
    joint = k.weight.unsqueeze(1) * k.p  # of row and action
    length = k.g.square().sum(-1)
    given_action = k.q.unsqueeze(-1) * k.g
    given_state = (k.p.unsqueeze(-1) * given_action).sum(1)
    mean = (k.weight.unsqueeze(1) * given_state).sum(0)
    found = {
        "square": (joint * length * (k.q**2 + k.noise)).sum(),
        "mean": mean.square().sum(),
        "trajectory": (joint * length * k.noise).sum(),
        "action": (joint * (given_action - given_state.unsqueeze(1)).square().sum(-1)).sum(),
        "state": (k.weight * (given_state - mean).square().sum(-1)).sum(),
    }
    found["variance"] = found["trajectory"] + found["action"] + found["state"]
    found["left"] = found["trajectory"] + found["state"]
    without = ((k.q + k.value.unsqueeze(1)).unsqueeze(-1) * k.g).square().sum(-1)
    found["critic"] = (joint * (without - given_action.square().sum(-1))).sum()
    average = (k.p * k.q).sum(1, keepdim=True)
    left = {
        "value_baseline": given_action - average.unsqueeze(-1) * k.g,
        "baseline": least_squares(k, given_action, k.g.unsqueeze(2)),
        "per_logit_baseline": least_squares(
            k, given_action, k.score.unsqueeze(-1) * k.jacobian.unsqueeze(1)
        ),
    }
    for name, rest in left.items():
        removed = given_action.square().sum(-1) - rest.square().sum(-1)
        found[name] = (joint * removed).sum()
    return {name: float(x) for name, x in found.items()}


def least_squares(k: Known, target: Tensor, slopes: Tensor) -> Tensor:
    """What the best baselines leave of ``[n, A, P]``; slopes of each baseline ``[n, A, b, P]``."""
    root = k.p.sqrt().view(*k.p.shape, 1)
    goal = (root * target).flatten(1).unsqueeze(-1)
    matrix = (root.unsqueeze(-1) * slopes).transpose(2, 3).flatten(1, 2)
    b = torch.linalg.pinv(matrix, rtol=1e-9) @ goal
    return target - torch.einsum("nabp,nb->nap", slopes, b.squeeze(-1))


CASES = {
    "gae": ("loop", {"gae_lambda": 0.7, "num_steps": 4}, 2),
    "gae-stairs": ("stairs", {"gae_lambda": 0.9, "num_steps": 2}, 3),
    "n-step": ("stairs", {"signal": "n-step", "n_step": 0, "num_steps": 3}, 1),
    "whole": ("loop", {"signal": "return-to-go"}, 1),
    "whole-stairs": ("stairs", {"signal": "return-to-go", "max_episode_steps": 3}, 1),
    "whole-chain": ("chain", {"signal": "return-to-go", "max_episode_steps": 6, "gamma": 0.5}, 1),
}


def case(name: str):
    """(mdp, config, T, number of rollouts, learner)."""
    mdp_name, changed, rollouts = CASES[name]
    config = config_of("actor-critic", **{"gamma": 0.9, **changed})
    mdp = with_number_observed(mdp_name)
    own = dataclasses.replace(config, estimator="reinforce")
    _, learner = some_agent(own, len(mdp.features), mdp.sizes[0], 1)
    whole = config.signal == "return-to-go"
    T = mdp.longest if whole else config.num_steps
    return mdp, config, T, rollouts, learner


@pytest.fixture
def _unchecked():
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize(
    ("name", "at"),
    [("gae", "logits"), *((name, "parameters") for name in CASES)],
)
def test_every_part_is_the_enumerated_one(name, at):
    mdp, config, T, rollouts, learner = case(name)
    exact = known(learner, mdp, config, T, rollouts)
    expected = parts(exact if at == "parameters" else at_logits(exact))
    card = EnvCard(f"tests/{CASES[name][0]}-v0")
    shares = [1 / rollouts] * rollouts
    found = split(learner, card, config, states=8192, copies=2, seed=1, at=at, shares=shares)
    assert expected["trajectory"] > 0.01 * expected["variance"] < 100 * expected["action"]
    for key, right in expected.items():
        value, low, high = getattr(found, key).value
        error = (high - low) / (2 * 1.96) + 1e-6 * expected["square"]
        assert abs(value - right) < Z_BOUND * error, (key, value, right, error)


@pytest.mark.usefixtures("_unchecked")
def test_along_is_the_enumerated_variance_of_an_estimate():
    """Of the engine's own lane gradients, over every trajectory."""
    mdp, config, T, rollouts, learner = case("whole-chain")
    whole = Case("reinforce", "chain", mdp=mdp, signal="return-to-go", gamma=config.gamma)
    learner.load_state_dict({k: v[:1].float() for k, v in whole.learner.state_dict().items()})
    rows, p = whole.rollout.valid.flatten(1).sum(1), whole.probability
    sums = lane_gradients(whole.learner, whole.rollout)
    mean = (p.unsqueeze(1) * sums).sum(0)
    variance = (p * (sums - mean).square().sum(1)).sum()
    exact = parts(known(learner, mdp, config, T, rollouts))
    expected = float(variance / ((p * rows).sum() * exact["variance"]))
    card = EnvCard("tests/chain-v0")
    value, low, high = split(learner, card, config, states=4096, copies=2, seed=2).along
    assert expected < 0.95
    assert abs(value - expected) < Z_BOUND * (high - low) / (2 * 1.96) < 0.2


def test_mean_products_leave_out_those_of_a_state_with_itself():
    x = torch.randn(5, 3, generator=seeded(1), dtype=torch.float64)
    weight = torch.tensor([[1.0, 1, 1, 1, 1], [2, 0, 3, 1, 0.5]], dtype=torch.float64)
    for w, found in zip(weight, _mean_product(weight, x), strict=True):
        pairs = [(w[i] * w[j], x[i] @ x[j]) for i in range(5) for j in range(5) if i != j]
        expected = sum(a * b for a, b in pairs) / sum(a for a, _ in pairs)
        assert float(found) == pytest.approx(float(expected))


def test_states_count_by_the_rows_of_their_estimates():
    rows = torch.tensor([1.0, 3.0, 4.0], dtype=torch.float64)
    x, g = torch.tensor([5.0, 1.0, 2.0]).double(), torch.eye(3).double()
    found, along = _assembled(torch.ones(1, 3).double(), rows, Parts(*[x] * 8), g, 2 * g)
    assert float(found["square"]) == pytest.approx((5 + 3 + 8) / 8)
    assert float(found["mean"]) == 0
    # Of orthogonal estimates of length 2: variance 4, over 8 / 3 rows of variance 2.
    assert float(along) == pytest.approx(4 / (8 / 3 * 2))


def trained(env: str, agent: str, iterations: int, **flags):
    """(a learner after some updates, card, config)."""
    resolved = resolve(env, agent, None, {"total_timesteps": 50_000, "num_envs": 4, **flags})
    trainer = Trainer(resolved, [1000], Options(quiet=True, device="cpu"))
    for _ in range(iterations):
        trainer.step()
    trainer.close()
    return trainer.learner, resolved.env, resolved.config


def values(found) -> dict[str, float]:
    return {
        field.name: getattr(found, field.name).value.value
        for field in dataclasses.fields(found)
        if hasattr(getattr(found, field.name), "share")
    }


def test_parts_sum_to_the_whole_on_a_simulator():
    learner, card, config = trained("CartPole-v1", "actor-critic", 5)
    before = {key: x.clone() for key, x in learner.state_dict().items()}
    found = split(learner, card, config, states=16, copies=2, seed=3)
    x = values(found)
    tiny = 1e-9 * x["square"]
    assert x["square"] == pytest.approx(x["mean"] + x["variance"], abs=tiny)
    assert x["variance"] == pytest.approx(x["action"] + x["left"], abs=tiny)
    assert x["left"] == pytest.approx(x["trajectory"] + x["state"], abs=tiny)
    assert min(x["trajectory"], x["action"], x["critic"]) > 0
    # With two actions the score has one direction: a baseline of the state does all that c can.
    assert x["baseline"] == pytest.approx(x["action"], rel=1e-6)
    assert x["per_logit_baseline"] == pytest.approx(x["action"], rel=1e-6)
    for key, value in x.items():
        part = getattr(found, key)
        assert part.value.low <= value <= part.value.high or key == "mean"
        of = x["variance"] + (x["critic"] if key == "critic" else 0.0)
        assert part.share.value == pytest.approx(value / of)
    # Deterministic, and nothing of the learner has moved.
    again = split(learner, card, config, states=16, copies=2, seed=3)
    assert again == found
    assert split(learner, card, config, states=16, copies=2, seed=4) != found
    assert all(torch.equal(before[key], y) for key, y in learner.state_dict().items())
    table = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert table["action"]["share"]["value"] == found.action.share.value
    assert table["along"]["low"] == found.along.low


def test_one_deterministic_step_leaves_nothing_to_the_trajectory():
    learner, card, config = trained("rlgrad/DialProbe-v0", "actor-critic", 3, num_steps=4)
    x = values(split(learner, card, config, states=32, copies=2, shares=[1.0]))
    assert x["trajectory"] == 0
    assert 0 < x["baseline"] < x["per_logit_baseline"] < x["action"]


def test_a_single_state_leaves_nothing_to_the_state():
    flags = {"max_episode_steps": 1}
    learner, card, config = trained("rlgrad/ValueProbe-v0", "reinforce", 3, **flags)
    x = values(split(learner, card, config, states=8, copies=2))
    assert x["trajectory"] == 0
    assert x["action"] > 0.1
    assert x["baseline"] == pytest.approx(x["action"])
    assert abs(x["state"]) < 1e-9 * x["square"]
    assert x["critic"] == 0


PAID = torch.tensor([[1.0, -2.0, 0.5], [3.0, 0.0, -1.0]])


class Factors(TorchVectorEnv):
    """One step with two factors of two and three categories, each pair paid its own reward."""

    noise_per_reset: ClassVar[int] = 1

    def spaces(self):
        return Box(-np.ones(2, np.float32), np.ones(2, np.float32)), MultiDiscrete([2, 3])

    def initial(self, noise):
        return torch.zeros_like(noise).expand(-1, 2) + torch.tensor([1.0, -0.5])

    def transition(self, xp, state, action):
        reward = PAID.numpy()[action[:, 0], action[:, 1]]
        return state.copy(), reward, np.ones(len(state), dtype=bool)


def test_actions_of_several_factors_are_taken_jointly(monkeypatch):
    name, entry = "tests/Factors-v0", "test_split:Factors"
    monkeypatch.setitem(SIMULATORS, name, (entry, None, None))
    if name not in gymnasium.registry:
        one = functools.partial(SingleLane, entry)
        gymnasium.register(name, one, vector_entry_point=entry)
    config = config_of("actor-critic", num_steps=1)
    like = Tabular(*[torch.ones(1)] * 4, torch.zeros(1, 2), (2, 3), 1)
    learner = agent(config, like, 1)
    x = torch.tensor([[[1.0, -0.5]]])
    logits = learner.logits(x)[0, 0].detach().double()
    each = logits.softmax(-1)
    pairs = torch.cartesian_prod(torch.arange(2), torch.arange(3))
    hot = torch.nn.functional.one_hot(pairs, 3).double()
    score = (hot - each).flatten(1).unsqueeze(0)
    p = (each[0][pairs[:, 0]] * each[1][pairs[:, 1]]).unsqueeze(0)
    value = learner.critic(x)[0].detach().double()
    q = PAID.flatten().double().unsqueeze(0) / SCALE - value
    network = SeedMLP(2, 6, learner.config.hidden).double()
    flat = learner.policy.flat.detach().double()
    slopes = torch.func.jacrev(lambda row: network(x.double(), row)[0, 0])(flat)[:, 0].unsqueeze(0)
    one = torch.ones(1, dtype=torch.float64)
    exact = parts(Known(one, p, q, 0 * q, score @ slopes, score, slopes, value))
    found = values(split(learner, EnvCard(name), config, states=4, copies=2, shares=[1.0]))
    assert found["trajectory"] == 0
    assert 0 < exact["baseline"] < exact["per_logit_baseline"] < 0.99 * exact["action"]
    assert found == pytest.approx(exact, rel=1e-4, abs=1e-5 * exact["square"])


def test_shares_of_nothing_are_none():
    """Without any variance: the critic of a constant reward is right, and credits are zero."""
    learner, card, config = trained("rlgrad/ValueProbe-v0", "actor-critic", 0)
    with torch.no_grad():
        bias, _ = learner.critic.network.layers(learner.critic.network.flat)[-1]
        bias[..., 0] = 1.0 / learner.value_scale
    found = split(learner, card, config, states=4, copies=2, shares=[1.0])
    assert found.variance.value == (0.0, 0.0, 0.0)
    assert found.to_dict()["action"]["share"] == {"value": None, "low": None, "high": None}
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("env", "kwargs", "message"),
    [
        ("MountainCar-v0", {}, "MountainCar-v0 cannot be set back to a state, .* no table"),
        ("CartPole-v1", {"sutton_barto_reward": True}, "cannot be set back"),
        ("Taxi-v4", {"fickle_passenger": True}, "a fickle passenger is not in its table"),
    ],
)
def test_refused_where_states_cannot_be_set_back(env, kwargs, message):
    config = config_of("actor-critic")
    _, learner = some_agent(config, 4, 2, 1)
    with pytest.raises(UsageError, match=message):
        split(learner, EnvCard(env, kwargs=kwargs), config)


def test_refusals():
    config = config_of("actor-critic")
    _, learner = some_agent(config, 48, 4, 1)
    card = EnvCard("CliffWalking-v1")
    for few in ({"states": 1}, {"copies": 1}):
        with pytest.raises(UsageError, match="expected at least 2 of each"):
            split(learner, card, config, **few)
    whole = dataclasses.replace(config, signal="return-to-go")
    with pytest.raises(UsageError, match="no time limit; give one with --max-episode-steps"):
        split(learner, card, whole)
    _, wide = some_agent(config, 4, 257, 1)
    with pytest.raises(UsageError, match="257 joint actions"):
        split(wide, card, config)
