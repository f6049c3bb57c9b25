"""Which gradient the agents follow, over many sampled lanes: against dynamic programming.

Simulator, noise, collection and update as in training, in float32; for all members, also those
whose noise cannot be enumerated. Seed rule: every generator is seeded with a literal shown here or
in ``tabular``, none chosen by its outcome. Chance of failing by luck: about 1,000 numbers are
compared with ``Z_BOUND``, which ``problems`` counts.
"""

from __future__ import annotations

from pathlib import Path

import jaxtyping
import pytest
import torch
from problems import Z_BOUND
from tabular import MDPS, by_rows, exact, model, pull
from tabular_agents import (
    ENUMERABLE,
    MONTE_CARLO,
    SCALE,
    UNBIASED,
    VARIANTS,
    agent,
    config_of,
    critic_of,
    estimator_of,
    know_the_rewards,
    policy_of,
    sampled_mean,
)

from rlgrad import card_files
from rlgrad.estimators import ESTIMATORS

LANES, REPEATS = 4096, 4
PAGE = (Path(__file__).parent.parent / "docs" / "bias.md").read_text("utf-8")


@pytest.fixture(autouse=True)
def _unchecked():
    """Other files check the shapes; thousands of lanes need not pay for it again."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def worst_z(mean, error, expected):
    """The largest |z| over parameters; those without any spread (the padding) must be right."""
    moving = error > 1e-7
    assert bool(((mean - expected)[~moving].abs() < 1e-5).all())
    return float(((mean - expected) / error)[moving].abs().max())


def sampled_z(variant, name, *, repeats=REPEATS, spoil=None, prepare=None, **changed):
    """The largest |z| of an agent's mean against the exact gradient, both of gamma = 1."""
    mdp, m, (card, more) = MDPS[name], model(MDPS[name]), VARIANTS[variant]
    learner = agent(config_of(card, **more | MONTE_CARLO | changed), mdp, LANES)
    if prepare:
        prepare(learner)
    pi, parameters = policy_of(learner, mdp)
    mean, error = sampled_mean(learner, mdp, mdp.longest, repeats, seed=4, spoil=spoil)
    return worst_z(mean, error, pull(m, pi, exact(m, pi, 1.0), parameters)[0] / SCALE)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_card_keeps_the_word_of_its_traits(variant):
    """Unbiased: within the bound of the exact gradient; biased: far beyond, at an arbitrary Q."""
    z = sampled_z(variant, "stairs")
    assert z < Z_BOUND if variant in UNBIASED else z > 5 * Z_BOUND
    card = card_files.read_agent(card_files.find("agents")[VARIANTS[variant][0]])
    assert ("biased" in card.summary) == (variant not in UNBIASED)
    assert f"`{card.name}`" in PAGE, "docs/bias.md says of every agent which gradient it follows"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stairs", "pairs", "loop", "masked"])
@pytest.mark.parametrize("variant", [each for each in UNBIASED if each not in ENUMERABLE])
def test_relaxing_agents_follow_the_gradient_of_the_return(variant, name):
    assert sampled_z(variant, name, repeats=24) < Z_BOUND


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["relax", "rebar", "muprop"])
def test_relaxing_agents_need_no_right_critic_with_lambda_one(variant):
    assert sampled_z(variant, "stairs", repeats=16, signal="gae", gae_lambda=1.0) < Z_BOUND


@pytest.mark.parametrize("variant", ["straight-through", "gumbel-rao", "gumbel-softmax"])
def test_relaxed_agents_stay_biased_where_q_is_right(variant):
    """Even through a linear Q: it is the relaxation's own bias, at the card's temperature."""
    assert sampled_z(variant, "chain", prepare=know_the_rewards, hidden=()) > 2 * Z_BOUND


def paid_late(learner, rollout):
    """Rewards credited to the action after the one that earned them."""
    return rollout._replace(reward=rollout.reward.roll(1, 1))


def baseline_of_now(learner, rollout):
    """A baseline that has seen the very returns it is subtracted from."""
    learner.estimator.moments.mean.copy_(rollout.reward.sum(1) / SCALE)
    return rollout


def resampled(learner, rollout):
    """Actions that were not taken, drawn anew from the policy."""
    noise = torch.empty_like(rollout.gumbel).exponential_(
        generator=torch.Generator().manual_seed(9)
    )
    logits = learner.logits(rollout.observation).detach()
    return rollout._replace(action=(logits - noise.log()).argmax(-1))


@pytest.mark.parametrize(
    ("variant", "spoil"),
    [
        ("reinforce", paid_late),
        ("reinforce-constant", baseline_of_now),
        ("reinforce-learned", resampled),
        ("relax-independent", resampled),
    ],
)
def test_the_bound_sees_a_mistake(variant, spoil):
    """The power of the sampled tests, with the lanes and repeats of the quick one."""
    assert sampled_z(variant, "pairs", spoil=spoil) > 4 * Z_BOUND


def deathless(learner, rollout):
    """Credits that run on into the next episode."""
    return rollout._replace(terminated=rollout.terminated & False)


def cut_short(learner, rollout):
    """Truncation taken for death."""
    return rollout._replace(terminated=rollout.terminated | rollout.truncated)


@pytest.mark.parametrize("variant", ["actor-critic", "all-action-control"])
def test_rollouts_over_several_episodes(variant):
    """Any gamma and lambda, a critic far off; episodes end and start within the rollout."""
    mdp, m, rows = MDPS["loop"], model(MDPS["loop"]), 7
    signal = {"signal": "gae", "gamma": 0.9, "gae_lambda": 0.7}
    learner = agent(config_of(VARIANTS[variant][0], **signal), mdp, LANES)
    learner.critic.network.rescale(torch.full((LANES, 1), 10.0))
    pi, parameters = policy_of(learner, mdp)
    weighted = by_rows(m, pi, 0.9, critic_of(learner, mdp), rows, decay=0.7, restart=True)
    expected = pull(m, pi, weighted, parameters)[0] / SCALE
    z = {}
    for spoil in (None, deathless, cut_short):
        found = sampled_mean(learner, mdp, rows, 2 * REPEATS, seed=6, whole=False, spoil=spoil)
        z[spoil] = worst_z(*found, expected)
    assert z[None] < Z_BOUND
    assert min(z[deathless], z[cut_short]) > 2 * Z_BOUND, z


def test_every_estimator_that_an_environment_serves_has_its_variant():
    served = {
        name
        for name, each in ESTIMATORS.items()
        if each.traits.values == 1 and not each.traits.enumerable
    }
    assert {estimator_of(variant) for variant in VARIANTS} == served
