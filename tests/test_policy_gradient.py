"""Which gradient the agents follow, to the last digit: against dynamic programming on small MDPs.

Every trajectory of an MDP runs through the engine once (simulator, collection, credits, estimator,
pullback, up to what the policy's optimiser is given), and the gradients are weighted by their
probabilities, in float64. So nothing here can fail by luck. Members that use noise beside the
action are sampled, in ``test_policy_gradient_sampled``. Seed rule: literals shown here or in
``tabular``, none chosen by its outcome.
"""

from __future__ import annotations

import pytest
import torch
from tabular import MDPS, action_value, by_rows, exact, model, usual
from tabular_agents import (
    ENUMERABLE,
    MONTE_CARLO,
    SCALE,
    Case,
    know_the_rewards,
    mean_over_rows,
    one_hot_observations,
    policy_of,
    row_gradients,
    set_linear,
)

EXACT = {"rtol": 1e-9, "atol": 1e-10}
every_mdp = pytest.mark.parametrize("name", MDPS)


@every_mdp
@pytest.mark.parametrize("variant", ENUMERABLE)
def test_monte_carlo_agents_follow_the_gradient_of_the_return(variant, name):
    """With gamma = 1, whatever their baselines are; a time limit ends the return."""
    case = Case(variant, name, **MONTE_CARLO)
    expected = case.pulled(exact(case.m, case.pi, 1.0))
    torch.testing.assert_close(case.mean(), expected, **EXACT)
    assert float(expected.norm()) > 0.1


@every_mdp
@pytest.mark.parametrize("variant", ["actor-critic", "learned-variance", "all-action-control"])
def test_lambda_one_needs_no_right_critic_where_episodes_terminate(variant, name):
    case = Case(variant, name, signal="gae", gamma=1.0, gae_lambda=1.0)
    right = exact(case.m, case.pi, 1.0)
    assert float(case.critic.abs().max()) > 0.5
    if case.mdp.limited:  # truncated ends bootstrap, so there the critic's error shows
        assert case.gap(right) > 0.2
        right = by_rows(case.m, case.pi, 1.0, case.critic, case.rows)
    torch.testing.assert_close(case.mean(), case.pulled(right), **EXACT)


BOOTSTRAPPED = {
    "gae": ({"gae_lambda": 0.95}, {"decay": 0.95}),
    "gae-0.5": ({"gae_lambda": 0.5}, {"decay": 0.5}),
    "one-step": ({"signal": "n-step", "n_step": 1}, {"n": 1}),
    "two-step": ({"signal": "n-step", "n_step": 2}, {"n": 2}),
}


@every_mdp
@pytest.mark.parametrize("signal", BOOTSTRAPPED)
@pytest.mark.parametrize("cut", [0, 1])
def test_bootstrapping_adds_what_the_critic_gets_wrong(name, signal, cut):
    """The bias to the last digit; ``cut``: the rollout ends a row before the longest episode."""
    (changed, known), rows = BOOTSTRAPPED[signal], MDPS[name].longest - cut
    case = Case("actor-critic", name, rows, gamma=0.9, **changed)
    weighted = by_rows(case.m, case.pi, 0.9, case.critic, rows, **known)
    torch.testing.assert_close(case.mean(), case.pulled(weighted), **EXACT)
    if cut == 0:
        # On the chain no action changes what comes: there the critic's errors cancel.
        assert (case.gap(usual(case.m, case.pi, 0.9)) > 0.01) == (name != "chain")


@every_mdp
@pytest.mark.parametrize("variant", ["reinforce", "reinforce-learned", "all-action-control"])
def test_without_gamma_to_the_t_it_is_not_the_gradient_of_the_discounted_return(variant, name):
    """Undiscounted visits times discounted values; each row times gamma^t is the gradient."""
    gamma = 0.7
    case = Case(variant, name, signal="return-to-go", gamma=gamma)
    right = exact(case.m, case.pi, gamma)
    assert case.gap(right) > 0.1
    expected = case.pulled(usual(case.m, case.pi, gamma))
    torch.testing.assert_close(case.mean(), expected, **EXACT)
    each = row_gradients(case.learner, case.rollout)
    discount = gamma ** torch.arange(case.rows, dtype=torch.float64)
    mean = SCALE * torch.einsum("t,s,tsp->p", discount, case.probability, each)
    torch.testing.assert_close(mean, case.pulled(right), **EXACT)
    # The same from outside: rewards times gamma^t, and no discount.
    paid = case.rollout.reward * discount.view(1, -1, 1)
    case = Case(variant, name, **MONTE_CARLO)
    case.rollout = case.rollout._replace(reward=paid)
    torch.testing.assert_close(case.mean(), case.pulled(right), **EXACT)


def test_chain_without_gamma_to_the_t():
    """The reference: at even odds .750 for .586, at each of the two logits, with gamma = 0.9."""

    def even(learner):
        with torch.no_grad():
            learner.policy.flat.zero_()

    case = Case("reinforce", "chain", prepare=even, signal="return-to-go", gamma=0.9)
    number = torch.arange(case.parameters.shape[1]).double().unsqueeze(0)
    head = case.learner.policy.layers(number)[-1][0]
    at_logits = head.flatten()[:2].long()  # the gradient at the head's bias: the sum over rows
    found = case.mean()[at_logits].tolist()
    right = case.pulled(exact(case.m, case.pi, 0.9))[at_logits].tolist()
    assert found == pytest.approx([-0.75, 0.75])
    assert right == pytest.approx([-0.125 * (1 - 0.9**6) / 0.1, 0.125 * (1 - 0.9**6) / 0.1])
    assert right[1] == pytest.approx(0.586, abs=5e-4)


@every_mdp
def test_averaging_over_rows_favours_short_episodes_by_one_over_lanes(name):
    """An update of whole episodes divides their sum by how many rows they had together.

    The mean of a quotient is not the quotient of means; it is as the number of lanes N grows.
    """
    gaps = {}
    for lanes in (1, 8, 64):
        found, limit = mean_over_rows(Case("reinforce", name, **MONTE_CARLO), lanes)
        gaps[lanes] = float((found - limit).norm() / limit.norm())
    if name == "chain":  # all episodes are of one length
        assert max(gaps.values()) < 1e-12
    else:
        assert gaps[1] > 0.02
        assert gaps[8] / gaps[64] == pytest.approx(8, rel=0.3)


@pytest.mark.parametrize("name", ["chain", "stairs"])
def test_all_action_is_as_right_as_its_q(name):
    """Biased by nothing but q: at the action values it is the gradient, else it is not."""

    mdp = one_hot_observations(MDPS[name])

    def know(learner):
        q = action_value(model(mdp), policy_of(learner, mdp)[0], 1.0)
        set_linear(learner.estimator.q.network, q.detach() / SCALE)

    case = Case("all-action", name, mdp=mdp, prepare=know, hidden=(), **MONTE_CARLO)
    right = exact(case.m, case.pi, 1.0)
    torch.testing.assert_close(case.mean(), case.pulled(right), rtol=1e-6, atol=1e-6)
    assert Case("all-action", name, mdp=mdp, hidden=(), **MONTE_CARLO).gap(right) > 0.1


LINEAR = {"hidden": (), **MONTE_CARLO}


def test_reinmax_through_the_right_linear_q_is_the_gradient():
    case = Case("reinmax", "chain", prepare=know_the_rewards, **LINEAR)
    right = exact(case.m, case.pi, 1.0)
    torch.testing.assert_close(case.mean(), case.pulled(right), rtol=1e-6, atol=1e-6)
    assert Case("reinmax", "chain", **LINEAR).gap(right) > 0.1
