"""The exact gradient on tables: against another dynamic program, and against the engine itself.

Seed rule: literals shown here or in ``tabular``, none chosen by its outcome. Chance of failing by
luck: the sampled tests make 24 comparisons per case with ``Z_BOUND``, which ``problems`` counts.
"""

from __future__ import annotations

import dataclasses

import gymnasium
import jaxtyping
import numpy as np
import pytest
import torch
from problems import Z_BOUND, seeded, z_of_mean
from tabular import averaged, by_rows, model, pull, usual, visits
from tabular_agents import SCALE, config_of, critic_of, exponential, lane_gradients, policy_of
from tabular_gym import some_agent, with_number_observed

from rlgrad.cards import EnvCard
from rlgrad.errors import UsageError
from rlgrad.lab.process import evenly
from rlgrad.lab.tabular import exact_gradient
from rlgrad.lanes import Lanes
from rlgrad.make import make_training, time_limit
from rlgrad.rollout import collect

EXACT = {"rtol": 1e-12, "atol": 1e-14}
SIGNALS = {
    "gae": ({"gae_lambda": 0.7}, {"decay": 0.7}),
    "one-step": ({"signal": "n-step", "n_step": 1}, {"n": 1}),
    "two-step": ({"signal": "n-step", "n_step": 2}, {"n": 2}),
    "to-the-end": ({"signal": "n-step", "n_step": 0}, {}),
}
every_mdp = pytest.mark.parametrize("name", ["chain", "stairs", "loop"])


def known(name, config):
    """(mdp, its model, an agent there in float64, policy and the parameters it is attached to)."""
    mdp = with_number_observed(name)
    _, learner = some_agent(config, len(mdp.features), mdp.sizes[0], 1)
    learner.double()
    return mdp, model(mdp), learner, *policy_of(learner, mdp)


@every_mdp
@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_rollouts_follow_the_other_dynamic_program(name, signal, rows):
    """Over borders of episodes, cut by rollout and time limit; first, second and third rollouts."""
    changed, as_known = SIGNALS[signal]
    config = config_of("actor-critic", gamma=0.9, num_steps=rows, **changed)
    mdp, m, learner, pi, parameters = known(name, config)
    card, matrix, state = EnvCard(f"tests/{name}-v0"), averaged(m, pi)[0].detach(), m.start
    each = []
    for number in range(3):
        critic = critic_of(learner, mdp)
        weighted = by_rows(m, pi, 0.9, critic, rows, restart=True, begin=state, **as_known)
        each.append(pull(m, pi, weighted, parameters)[0] / SCALE / rows)
        found = exact_gradient(learner, card, config, [float(i == number) for i in range(3)])
        torch.testing.assert_close(found, each[-1], **EXACT)
        for _ in range(rows):
            onward = state @ matrix
            state = onward + (1 - onward.sum()) * m.start
    assert float(each[0].norm()) > 0.01
    found = exact_gradient(learner, card, config, (0.5, 0.2, 0.3))
    torch.testing.assert_close(found, 0.5 * each[0] + 0.2 * each[1] + 0.3 * each[2], **EXACT)


@every_mdp
def test_whole_episodes_follow_the_usual_gradient(name):
    config = config_of("reinforce", gamma=0.8, max_episode_steps=0 if name == "loop" else 6)
    _, m, learner, pi, parameters = known(name, config)
    expected = pull(m, pi, usual(m, pi, 0.8), parameters)[0] / SCALE / visits(m, pi, 1.0).sum()
    found = exact_gradient(learner, EnvCard(f"tests/{name}-v0"), config)
    torch.testing.assert_close(found, expected.detach(), **EXACT)


LANES = 64
# Id, constructor's arguments, time limit; short ones, so that episodes end by it in a rollout.
SAMPLED = {
    "lake": ("FrozenLake-v1", {}, 0),
    "lake-limited": ("FrozenLake-v1", {"map_name": "4x4", "success_rate": 0.5}, 5),
    "cliff": ("CliffWalking-v1", {}, 11),
    "cliff-slippery": ("CliffWalkingSlippery-v1", {}, 0),
    "taxi": ("Taxi-v4", {}, 13),
    "taxi-in-rain": ("Taxi-v4", {"is_rainy": True}, 0),
    "both": ("rlgrad/BothProbe-v0", {}, 0),
    "discount": ("rlgrad/DiscountProbe-v0", {}, 0),
    "truncation": ("rlgrad/TruncationProbe-v0", {}, 0),
    "observation": ("rlgrad/ObservationProbe-v0", {}, 1),
}


def estimates(many, card, config, shares, repeats, seed):
    """What lanes of the engine give to an update: (sums of rows ``[n, P]``, numbers of rows)."""
    lanes_count, g = many.seeds, seeded(seed)
    lanes = Lanes(make_training(card, lanes_count, config.max_episode_steps))
    whole = config.signal == "return-to-go"
    T = time_limit(card.id, config.max_episode_steps) if whole else config.num_steps
    sums, rows = [], []
    for repeat in range(repeats):
        observation = lanes.reset([1000 + repeat * lanes_count + i for i in range(lanes_count)])
        number = torch.multinomial(torch.tensor(shares), lanes_count, True, generator=g)
        found = torch.zeros(lanes_count, many.policy.flat.shape[1], dtype=torch.float64)
        for i in range(int(number.max()) + 1):
            gumbel, alive = -exponential(many, T, g).log(), np.ones(lanes_count, dtype=bool)
            rollout, observation = collect(
                lanes, many.actor(), observation, gumbel, alive if whole else None
            )
            mine = (number == i).unsqueeze(1)
            found = torch.where(mine, lane_gradients(many, rollout), found)
        sums.append(found)
        rows.append(rollout.valid.flatten(1).sum(1))
    lanes.close()
    return torch.cat(sums), torch.cat(rows).double()


def sampled_z(case, signal, repeats, shares=(1.0,), spoil=None):
    """The largest |z| over 24 random directions; the estimate is a quotient for whole episodes."""
    jaxtyping.config.update("jaxtyping_disable", True)  # thousands of lanes need not pay for it
    try:
        env, kwargs, limit = SAMPLED[case]
        card = EnvCard(env, kwargs=kwargs)
        agent = "reinforce" if signal == "return-to-go" else "actor-critic"
        config = config_of(
            agent, signal=signal, gamma=0.9, num_steps=8, n_step=3, max_episode_steps=limit
        )
        one = gymnasium.make(env, **kwargs)
        space, actions = one.observation_space, int(one.action_space.n)
        features = int(getattr(space, "n", 0)) or space.shape[0]
        many, once = some_agent(config, features, actions, LANES)
        expected = exact_gradient(once, card, config, shares)
        if spoil:
            expected = exact_gradient(once, card, dataclasses.replace(config, **spoil), shares)
        sums, rows = estimates(many, card, config, shares, repeats, seed=3)
        along = torch.randn(sums.shape[1], 24, generator=seeded(5), dtype=torch.float64)
        gaps = (sums - rows.unsqueeze(1) * expected) / rows.mean()
        return z_of_mean(gaps @ along, torch.zeros(24, dtype=torch.float64))
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("case", ["lake-limited", "cliff", "both", "discount", "truncation"])
@pytest.mark.parametrize("signal", ["gae", "n-step"])
def test_the_engine_samples_it(case, signal):
    shares = (0.5, 0.25, 0.25) if signal == "gae" else (1.0,)
    assert sampled_z(case, signal, 8, shares) < Z_BOUND


@pytest.mark.parametrize("case", ["lake-limited", "observation"])
def test_the_engine_samples_whole_episodes_of_it(case):
    assert sampled_z(case, "return-to-go", 16) < Z_BOUND


@pytest.mark.slow
@pytest.mark.parametrize("case", ["lake", "cliff", "cliff-slippery", "taxi", "taxi-in-rain"])
def test_the_engine_samples_it_for_long(case):
    assert sampled_z(case, "gae", 32, (0.6, 0.4)) < Z_BOUND


@pytest.mark.slow
@pytest.mark.parametrize("case", ["cliff", "taxi"])
def test_the_engine_samples_whole_episodes_of_it_for_long(case):
    assert sampled_z(case, "return-to-go", 32) < Z_BOUND


@pytest.mark.parametrize("spoil", [{"gamma": 0.6}, {"gae_lambda": 0.5}])
def test_the_bound_sees_a_mistake(spoil):
    """The power of the sampled tests; against the other dynamic program 1e-12 is seen."""
    assert sampled_z("cliff", "gae", 16, spoil=spoil) > 1.5 * Z_BOUND


class Paid(gymnasium.RewardWrapper):
    """Changes what the table of its environment says."""

    def reward(self, reward):
        return reward + 1.0


gymnasium.register(
    "tests/Paid-v0",
    lambda **kwargs: Paid(gymnasium.make("FrozenLake-v1", **kwargs).unwrapped),
    max_episode_steps=9,
)


@pytest.mark.parametrize(
    ("env", "kwargs"),
    [
        ("CartPole-v1", {}),
        ("rlgrad/CartPole-v1", {}),
        ("rlgrad/DialProbe-v0", {}),
        ("MountainCar-v0", {}),
        ("Blackjack-v1", {}),
        ("tests/Paid-v0", {}),
        ("Taxi-v4", {"fickle_passenger": True}),
    ],
)
def test_none_where_there_is_no_table_that_tells_all(env, kwargs):
    config = config_of("actor-critic")
    _, learner = some_agent(config, 4, 2, 1)
    assert exact_gradient(learner, EnvCard(env, kwargs=kwargs), config) is None


def test_refusals():
    config = config_of("reinforce")
    many, learner = some_agent(config, 48, 4, 2)
    card = EnvCard("CliffWalking-v1")
    with pytest.raises(UsageError, match="no time limit; give one with --max-episode-steps"):
        exact_gradient(learner, card, config)
    with pytest.raises(UsageError, match="signal gae needs a critic, and this agent has none"):
        exact_gradient(learner, card, dataclasses.replace(config, signal="gae"))
    with pytest.raises(ValueError, match="a learner of 2 seeds"):
        exact_gradient(many, card, config)
    config = config_of("actor-critic")
    _, learner = some_agent(config, 48, 4, 1)
    with pytest.raises(ValueError, match="expected chances, which sum to 1"):
        exact_gradient(learner, card, config, (0.5, 0.4))


def test_shares_of_a_stretch_that_starts_by_chance():
    assert evenly(0) == (1.0,)
    assert evenly(2, 2) == pytest.approx((1 / 6, 1 / 3, 1 / 3, 1 / 6))
