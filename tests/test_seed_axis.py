"""A seed gets the same bits alone as among others: the promise that all comparisons rest on.

Every tensor of the learner is compared, parameters, optimisers and statistics, after many updates:
one differing bit anywhere spreads to the next rollout and shows.
"""

from __future__ import annotations

import dataclasses

import jaxtyping
import pytest
import torch
from shipped import OWN

from rlgrad.card_files import agent_card
from rlgrad.cards import resolve
from rlgrad.diagnostics import gradient_noise
from rlgrad.estimators.networks import SeedMLP
from rlgrad.estimators.passes import BLOCK
from rlgrad.options import Options
from rlgrad.pullback import direction, parameter_gradients
from rlgrad.trainer import Trainer

torch.set_num_threads(1)
SEED, COMPANY = 7, [3, 7, 11, 2**40 + 1, 0]
TWENTY = [*range(100, 107), 7, *range(5), *range(200, 207)]
REWARDS = {"normalize_observations": "on", "normalize_rewards": True}
ITERATIONS = 15
every_card = pytest.mark.parametrize("agent", OWN)
# Whole episodes are kept short in the fast tests: T is the time limit.
ENVIRONMENTS = {
    "CartPole-v1": {"max_episode_steps": 60},
    "FrozenLake-v1": {"max_episode_steps": 30},
    "Acrobot-v1": {"max_episode_steps": 30, "num_envs": 4},
}
every_environment = pytest.mark.parametrize("env", ENVIRONMENTS)
NORMALISED = {"observation_scale": (), "value_scale": 0.0}
EXTRAS = {"entropy_coef": 0.01, "max_grad_norm": 0.5}
SHAPES = {
    "odd lanes and steps": {"num_envs": 7, "num_steps": 13},
    "one lane": {"num_envs": 1, "num_steps": 5},
    "normalised": {**NORMALISED, **EXTRAS, "num_steps": 8},
    "odd width": {"num_envs": 7, "num_steps": 13, "hidden": (33,)},
    "width 50": {"num_envs": 4, "num_steps": 16, "hidden": (50, 50), **NORMALISED},
    "odd everything": {"num_envs": 1, "num_steps": 5, "hidden": (33, 7), **NORMALISED, **EXTRAS},
}


@pytest.fixture(autouse=True)
def _unchecked():
    """Other files check the shapes; thousands of steps need not pay for it again."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def start(env, agent, seeds, *, solved_at=None, **flags):
    """A trainer that has not stepped yet."""
    resolved = resolve(env, agent, None, flags)
    if solved_at is not None:
        card = dataclasses.replace(resolved.env, solved_at=solved_at)
        resolved = dataclasses.replace(resolved, env=card)
    options = Options(device="cpu", stop_when_solved=solved_at is not None)
    return Trainer(resolved, seeds, options)


def run(*args, iterations=ITERATIONS, **flags):
    trainer = start(*args, **flags)
    for _ in range(iterations):
        if any(trainer.active):
            trainer.step()
    trainer.close()
    return trainer


def row(trainer, seed):
    """A seed's part of every tensor."""
    i = trainer.seeds.index(seed)
    return {name: x[i].clone() for name, x in trainer.learner.state_dict().items()}


def differing(first, second):
    """Names of tensors that are not the same, bit for bit."""
    assert first.keys() == second.keys()
    return [name for name, x in first.items() if not torch.equal(x, second[name])]


def outcome(trainer, seed):
    """How a seed stands, but for what a clock says."""
    found = dataclasses.asdict(trainer.outcomes[trainer.seeds.index(seed)])
    return {key: value for key, value in found.items() if key != "solved_at_seconds"}


def assert_same(alone, company):
    assert differing(row(alone, SEED), row(company, SEED)) == []
    assert repr(outcome(alone, SEED)) == repr(outcome(company, SEED))  # repr: NaN equals NaN
    fresh = row(start(company.resolved.env.id, company.resolved.agent, [SEED]), SEED)
    policy = row(company, SEED)["policy.flat"]
    if fresh["policy.flat"].shape == policy.shape:
        assert not torch.equal(policy, fresh["policy.flat"])  # it did train


@every_environment
@every_card
def test_alone_as_among_five(agent, env):
    flags = ENVIRONMENTS[env]
    assert_same(run(env, agent, [SEED], **flags), run(env, agent, COMPANY, **flags))


@pytest.mark.parametrize("env", ["CartPole-v1", "MountainCar-v0"])  # 2 and 3 actions
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("agent", ["reinforce-learned", "relax"])
def test_alone_as_among_five_in_other_shapes(agent, shape, env):
    flags = {"max_episode_steps": 33, **SHAPES[shape]}
    assert_same(run(env, agent, [SEED], **flags), run(env, agent, COMPANY, **flags))


def run_shaken(agent, seeds):
    """A few updates from random parameters: zero heads would hide what passes through them."""
    flags = {"max_episode_steps": 11, "num_envs": 7, "num_steps": 11}
    trainer = start("MountainCar-v0", agent, seeds, **flags)
    with torch.no_grad():
        for parameter in trainer.learner.parameters():
            for part, seed in zip(parameter, seeds, strict=True):
                generator = torch.Generator().manual_seed(seed)
                part.add_(0.5 * torch.randn(part.shape, generator=generator))
    for _ in range(3):
        trainer.step()
    return trainer


@pytest.mark.parametrize("agent", ["reinforce-learned", "relax"])
def test_each_of_twenty_alone(agent):
    """The last 7 of a seed's 231 logits fill no vector register.

    A function that rounds otherwise there (logaddexp, softplus, sigmoid) does so in one number
    in fifty, so that one seed alone may not meet it.
    """
    twenty = run_shaken(agent, TWENTY)
    for seed in TWENTY:
        assert differing(row(run_shaken(agent, [seed]), seed), row(twenty, seed)) == [], seed


def balance(trainer, seed):
    """Make a seed's policy push the cart towards the side the pole falls to."""
    layers = trainer.learner.policy.layers(trainer.learner.policy.flat.detach())
    i = trainer.seeds.index(seed)
    for bias, weight in layers:
        bias[i], weight[i] = 0.0, 0.0
    layers[0][1][i, 2:4, 0] = layers[1][1][i, 0, 0] = 1.0  # angle and angular velocity
    layers[2][1][i, 0, :2] = torch.tensor([-5.0, 5.0])


@pytest.mark.parametrize(
    "flags", [{}, NORMALISED, REWARDS], ids=["scaled", "normalised", "rewards"]
)
@pytest.mark.parametrize("agent", ["reinforce", "reinforce-constant", "reinforce-learned"])
def test_alone_as_beside_much_longer_episodes(agent, flags):
    """Blocks of rows in which no seed is alive are left out: how many depends on the company."""
    trainers = [start("CartPole-v1", agent, seeds, **flags) for seeds in ([SEED], COMPANY)]
    balance(trainers[1], 11)
    for trainer in trainers:
        for _ in range(3):
            trainer.step(measure=True)
    long, short = (outcome(trainers[1], seed)["mean_length"] for seed in (11, SEED))
    assert short * 8 < BLOCK < 4 * BLOCK < long * 8
    assert_same(*trainers)


@pytest.mark.parametrize("env", ["CartPole-v1", "FrozenLake-v1"])  # 2 and 4 actions
@pytest.mark.parametrize("objective", ["environment", "batch"])
@pytest.mark.parametrize("coupling", ["coupled", "independent"])
def test_every_objective_of_relax(objective, coupling, env):
    flags = {"objective": objective, "coupling": coupling, "num_envs": 5, "num_steps": 12}
    assert_same(
        run(env, "relax-network", [SEED], **flags), run(env, "relax-network", COMPANY, **flags)
    )


@pytest.mark.parametrize("env", ["CartPole-v1", "MountainCar-v0"])  # 2 and 3 actions
@pytest.mark.parametrize(
    "flags",
    [
        {"estimator": "learned", "fit": "variance", "objective": "environment"},
        {"estimator": "learned", "fit": "variance", "per_logit": True},
        {"estimator": "all-action"},
        {"estimator": "all-action-control", "objective": "environment"},
        {"estimator": "all-action-control", "fit": "regression"},
    ],
    ids=str,
)
def test_every_fit_of_baselines_and_of_q(flags, env):
    flags = {**flags, "num_envs": 7, "num_steps": 13}
    assert_same(
        run(env, "actor-critic", [SEED], **flags), run(env, "actor-critic", COMPANY, **flags)
    )


@pytest.mark.parametrize("lanes", [1, 2, 7])
@pytest.mark.parametrize("actions", [2, 3, 4, 6, 18])
def test_gradients_per_lane_and_what_is_logged_of_them(actions, lanes):
    """Heads of other widths are padded and copied on the way; one of 4 is a view of u."""
    g = torch.Generator().manual_seed(0)
    five, one = SeedMLP(4, actions, (32,), 5), SeedMLP(4, actions, (32,), 1)
    one.load_state_dict({"flat": five.flat[3:4].detach()})
    x = torch.randn(5, 13, lanes, 4, generator=g)
    u, weight = torch.randn(5, 13, lanes, 1, actions, generator=g), torch.ones(5, 13, lanes)

    def results(net, *rows):
        by_lane = parameter_gradients(net, *rows[:2], lanes=True)
        found = {"lanes": by_lane.view(len(rows[0]), -1), "noise": gradient_noise(net, *rows)}
        found["seeds"] = parameter_gradients(net, *rows[:2], lanes=False)
        found |= {name: direction(name, net, *rows[:2]) for name in ("environment", "batch")}
        return {**found.pop("noise"), **found}

    whole = {name: each[3] for name, each in results(five, x, u, weight).items()}
    alone = results(one, *(each[3:4].clone() for each in (x, u, weight)))
    assert differing({name: each[0] for name, each in alone.items()}, whole) == []


@pytest.mark.slow
@every_environment
@every_card
def test_alone_as_among_twenty(agent, env):
    """With whole episodes of CartPole up to their real limit of 500 steps.

    FrozenLake, which Gymnasium steps one by one, is trained for as many rows as meet a fall, a
    goal and a limit in each seed: of a thousand rows, 8 updates round as often as 30 of 256.
    """
    flags = {} if env == "CartPole-v1" else ENVIRONMENTS[env]
    iterations = 30
    if env == "FrozenLake-v1":
        config = resolve(env, agent, None, flags).config
        iterations = 8 if config.num_envs * config.num_steps > 1000 else ITERATIONS
    alone = run(env, agent, [SEED], iterations=iterations, **flags)
    assert_same(alone, run(env, agent, TWENTY, iterations=iterations, **flags))


@every_card
def test_measuring_on_the_way_changes_no_bit(agent):
    flags = {"max_episode_steps": 40, "num_envs": 4}
    plain = run("CartPole-v1", agent, COMPANY, iterations=6, **flags)
    measured = start("CartPole-v1", agent, COMPANY, **flags)
    for i in range(6):
        assert bool(measured.step(measure=i % 2 == 0)) == (i % 2 == 0)
    for seed in COMPANY:
        assert differing(row(plain, seed), row(measured, seed)) == []


@pytest.mark.parametrize("agent", ["actor-critic", "reinforce"])
def test_seeds_that_are_solved_are_frozen_and_disturb_nobody(agent):
    # 100 episodes of a random policy's 22 steps: the bar separates the seeds.
    flags = {"max_episode_steps": 60, "num_envs": 8, "iterations": 30, "solved_at": 24.0}
    company = run("CartPole-v1", agent, COMPANY, **flags)
    steps = [o.steps for o in company.outcomes]
    assert {o.status for o in company.outcomes} == {"solved"}
    assert len(set(steps)) > 1  # some were frozen while others went on
    for seed in COMPANY[:3]:
        alone = run("CartPole-v1", agent, [seed], **flags)
        assert outcome(alone, seed) == outcome(company, seed)
        assert differing(row(alone, seed), row(company, seed)) == []


def test_seeds_that_are_finished_are_frozen_and_disturb_nobody():
    """Whole episodes differ in length, so the seeds reach the total in different iterations."""
    flags = {"max_episode_steps": 60, "total_timesteps": 2500, "iterations": 30}
    company = run("CartPole-v1", "reinforce-learned", COMPANY, **flags)
    assert {o.status for o in company.outcomes} == {"finished"}
    assert len({o.steps for o in company.outcomes}) > 1
    assert min(o.steps for o in company.outcomes) >= 2500
    for seed in COMPANY[:2]:
        alone = run("CartPole-v1", "reinforce-learned", [seed], **flags)
        assert outcome(alone, seed) == outcome(company, seed)
        assert differing(row(alone, seed), row(company, seed)) == []


@every_card
def test_a_diverged_seed_is_frozen_at_its_last_good_state(agent):
    flags = {"max_episode_steps": 40, "num_envs": 4}
    untouched = run("CartPole-v1", agent, COMPANY, iterations=10, **flags)
    trainer = start("CartPole-v1", agent, COMPANY, **flags)
    update, victim = trainer.learner.update, COMPANY.index(11)

    def diverge(*args):
        numbers = update(*args)
        if trainer.iteration == 4:
            with torch.no_grad():
                trainer.learner.policy.flat[victim, 3] = float("nan")
                trainer.learner.policy_adam.square[victim] = float("inf")
        return numbers

    trainer.learner.update = diverge
    for i in range(10):
        if i == 4:
            good = row(trainer, 11)
        trainer.step()
        assert all(bool(x.isfinite().all()) for x in trainer.learner.state_dict().values())
    steps = trainer.outcomes[victim].steps
    assert differing(good, row(trainer, 11)) == []
    for seed in set(COMPANY) - {11}:
        assert differing(row(untouched, seed), row(trainer, seed)) == []
        assert outcome(untouched, seed) == outcome(trainer, seed)
    assert [o.status for o in trainer.outcomes].count("failed") == 1
    assert outcome(trainer, 11)["status"] == "failed"
    assert "infinite or NaN" in outcome(trainer, 11)["reason"]
    assert steps < outcome(untouched, 11)["steps"]
    assert trainer.active == [seed != 11 for seed in COMPANY]


def test_a_seed_that_starts_broken_disturbs_nobody():
    trainer = start("CartPole-v1", "relax", COMPANY)
    with torch.no_grad():
        trainer.learner.policy.flat[COMPANY.index(11)] = float("nan")
    for _ in range(5):
        trainer.step()
    untouched = run("CartPole-v1", "relax", COMPANY, iterations=5)
    for seed in set(COMPANY) - {11}:
        assert differing(row(untouched, seed), row(trainer, seed)) == []
    assert outcome(trainer, 11)["status"] == "failed"


def test_order_of_seeds_and_repetition_do_not_matter():
    flags = {"iterations": 5, "num_envs": 4}
    first = run("CartPole-v1", "relax", COMPANY, **flags)
    turned = run("CartPole-v1", "relax", COMPANY[::-1], **flags)
    again = run("CartPole-v1", "relax", COMPANY, **flags)
    for seed in COMPANY:
        assert differing(row(first, seed), row(turned, seed)) == []
        assert differing(row(first, seed), row(again, seed)) == []
    rows = [row(first, seed)["policy.flat"] for seed in COMPANY]
    assert not any(torch.equal(x, y) for i, x in enumerate(rows) for y in rows[:i])


def test_every_card_is_meant():
    """So that a new card cannot go untested by being unreadable."""
    assert {agent_card(name).name for name in OWN} == set(OWN)
    assert {"actor-critic", "reinforce", "reinforce-constant", "relax"} <= set(OWN)
