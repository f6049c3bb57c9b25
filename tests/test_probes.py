"""The ladder of probe environments: the first rung that fails names the fault.

Trained with fixed seeds, so on one machine a rung passes always or never; the bounds leave an order
of magnitude to what was measured, so that other kernels' rounding does not decide.
"""

from __future__ import annotations

import math

import gymnasium
import jaxtyping
import pytest
import torch

import rlgrad
from rlgrad.cards import resolve
from rlgrad.options import Options
from rlgrad.simulators import SIMULATORS
from rlgrad.simulators.probes import DiscountProbe, ObservationProbe
from rlgrad.trainer import Trainer

torch.set_num_threads(1)
SEEDS = [0, 1]
AGENTS = {
    "actor-critic": ("actor-critic", {}),
    "n-step": ("actor-critic", {"signal": "n-step", "n_step": 3}),
    "relax": ("relax", {}),
    "reinforce": ("reinforce", {"max_episode_steps": 4}),
    "reinforce-constant": ("reinforce-constant", {"max_episode_steps": 4}),
    "reinforce-learned": ("reinforce-learned", {"max_episode_steps": 4}),
}
# Relax's critic is the actor-critic's, bit for bit; it climbs one of these rungs to show it.
every_critic = pytest.mark.parametrize("agent", ["actor-critic", "n-step", "reinforce-learned"])
every_actor = pytest.mark.parametrize("agent", AGENTS)


@pytest.fixture(autouse=True)
def _unchecked():
    """Other files check the shapes; thousands of steps need not pay for it again."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def trained(probe, agent, iterations=50, **flags):
    """A trainer after some iterations of 8 lanes x 16 steps, or of 8 whole episodes."""
    card, own = AGENTS[agent]
    rates = dict.fromkeys(["", "critic_", "estimator_"], 3e-2)
    settings = {f"{name}learning_rate": rate for name, rate in rates.items()}
    settings |= {"num_steps": 16, "hidden": (16,), "total_timesteps": 128 * iterations}
    resolved = resolve(f"rlgrad/{probe}-v0", card, None, settings | own | flags)
    trainer = Trainer(resolved, SEEDS, Options(device="cpu"))
    for _ in range(iterations):
        trainer.step()
    trainer.close()
    return trainer


@torch.no_grad()
def values(trainer, observation):
    """What every seed expects to come at an observation, in units of reward, ``[S]``."""
    learner = trainer.learner
    seen = learner.see(torch.full((len(SEEDS), 1, 1), float(observation)))
    if learner.critic is None:
        found = learner.estimator.predict(seen, seen[..., 0])
    else:
        found = learner.critic(seen)
    return (found * learner.value_scale)[:, 0]


@torch.no_grad()
def probabilities(trainer, observation):
    """Of action 1, ``[S]``."""
    x = torch.full((len(SEEDS), 1, 1), float(observation))
    return trainer.learner.logits(x).softmax(-1)[:, 0, 0, 1]


def assert_values(trainer, observation, expected, tolerance=0.05):
    found = values(trainer, observation)
    assert float((found - expected).abs().max()) < tolerance, (observation, found, expected)


@every_critic
def test_first_rung_the_value_of_a_constant(agent):
    assert_values(trained("ValueProbe", agent), 0, 1.0)


@pytest.mark.parametrize("agent", ["actor-critic", "n-step", "reinforce-learned", "relax"])
def test_second_rung_the_value_depends_on_the_observation(agent):
    trainer = trained("ObservationProbe", agent)
    assert_values(trainer, 1, 1.0)
    assert_values(trainer, -1, -1.0)


@every_critic
def test_third_rung_the_value_is_discounted(agent):
    trainer = trained("DiscountProbe", agent, gamma=0.5)
    assert_values(trainer, 0, 0.5)
    assert_values(trainer, 1, 1.0)


@every_actor
def test_fourth_rung_the_action_that_pays_is_taken(agent):
    trainer = trained("ActionProbe", agent, 30)
    assert float(probabilities(trainer, 0).min()) > 0.95


@every_actor
def test_fifth_rung_the_action_that_pays_depends_on_the_observation(agent):
    trainer = trained("BothProbe", agent, 30)
    assert float(probabilities(trainer, 1).min()) > 0.95
    assert float(probabilities(trainer, -1).max()) < 0.05
    assert trainer.outcomes[0].mean_return > 0.8


@pytest.mark.parametrize(
    ("agent", "gamma", "iterations"),
    [
        ("actor-critic", 0.5, 50),
        ("n-step", 0.5, 50),
        ("relax", 0.5, 50),
        ("actor-critic", 0.8, 120),
    ],
)
def test_sixth_rung_a_truncation_is_no_end(agent, gamma, iterations):
    """Taken for a death, the cut after 5 steps leaves V = 1.6 instead of 2, or 2.6 of 5."""
    trainer = trained("TruncationProbe", agent, iterations, gamma=gamma)
    optimum = 1 / (1 - gamma)
    assert_values(trainer, 0, optimum, 0.05 * optimum)
    assert trainer.outcomes[0].mean_length == 5.0


def test_a_probe_from_the_public_function(tmp_path):
    run = rlgrad.train(
        "rlgrad/ActionProbe-v0", "actor-critic", seeds=2, total_timesteps=4_000, num_steps=16,
        learning_rate=3e-2, log_dir=str(tmp_path), quiet=True, eval_episodes=50,
    )  # fmt: skip
    for seed in run.result()["seeds"]:
        assert seed["status"] == "finished"
        assert seed["evaluation"]["argmax"]["mean"] == 1.0
        assert seed["evaluation"]["sampled"]["mean"] > 0.8
    action, _ = rlgrad.load(run).predict([0.0], deterministic=True)
    assert action == 1


@pytest.mark.parametrize("agent", ["actor-critic", "relax"])
def test_seventh_rung_one_of_many_actions_is_found(agent):
    trainer = trained("DialProbe", agent, 60)
    angle = torch.arange(16) * (2 * torch.pi / 16)
    seen = torch.stack([angle.cos(), angle.sin()], -1).expand(len(SEEDS), -1, -1)
    with torch.no_grad():
        best = trainer.learner.logits(seen).argmax(-1).squeeze(-1)
    missed = (best - torch.arange(16) + 8) % 16 - 8
    assert float(missed.abs().double().mean()) < 1.5  # by chance it would be 4
    assert min(outcome.mean_return for outcome in trainer.outcomes) > 0.5


def test_the_ladder_is_complete():
    probes = {name.removeprefix("rlgrad/").removesuffix("-v0") for name in SIMULATORS}
    tested = {"Value", "Observation", "Discount", "Action", "Both", "Truncation", "Dial"}
    assert {name for name in probes if name.endswith("Probe")} == {f"{x}Probe" for x in tested}


def test_probes_show_what_their_optimum_depends_on():
    env = ObservationProbe(1000)
    signs, _ = env.reset(seed=0)
    assert abs(float(signs.sum())) < 6.5 * math.sqrt(1000)  # fails by luck with P = 8e-11
    _, reward, terminated, _, info = env.step(torch.zeros(1000, dtype=torch.int64))
    assert torch.equal(reward, signs[:, 0])
    assert torch.equal(info["final_obs"], signs)
    assert bool(terminated.all())
    env = DiscountProbe(2)
    assert env.reset(seed=0)[0].tolist() == [[0.0], [0.0]]
    x, reward, terminated, _, _ = env.step(torch.tensor([0, 1]))
    assert (x.tolist(), reward.tolist(), terminated.tolist()) == ([[1.0]] * 2, [0, 0], [False] * 2)
    _, reward, terminated, _, _ = env.step(torch.tensor([0, 1]))
    assert (reward.tolist(), terminated.tolist()) == ([1, 1], [True, True])


def test_truncation_probe_is_cut_after_five_steps_and_never_dies():
    for make in (gymnasium.make, lambda name: gymnasium.make_vec(name, num_envs=1)):
        env = make("rlgrad/TruncationProbe-v0")
        env.reset(seed=0)
        action = 0 if make is gymnasium.make else torch.tensor([0])
        flags = [env.step(action)[2:4] for _ in range(5)]
        assert [(bool(d), bool(c)) for d, c in flags] == [(False, False)] * 4 + [(False, True)]
