"""The dynamic programming of ``tabular`` against autograd and against all trajectories."""

from __future__ import annotations

import pytest
import torch
from problems import double
from tabular import (
    MDPS,
    action_value,
    advantages,
    by_rows,
    exact,
    joint,
    masked,
    model,
    pull,
    trajectories,
    usual,
    value,
    visits,
)
from test_returns import naive_gae, naive_n_step

EXACT = {"rtol": 1e-10, "atol": 1e-12}
every_mdp = pytest.mark.parametrize("name", MDPS)
every_gamma = pytest.mark.parametrize("gamma", [1.0, 0.9, 0.3])


def setting(name, seed=0):
    """(mdp, model, logits ``[X, D, A]``, policy, critic)."""
    mdp, g = MDPS[name], torch.Generator().manual_seed(seed)
    shape = len(mdp.start), len(mdp.sizes), mdp.sizes[0]
    logits = torch.randn(shape, generator=g, dtype=torch.float64).requires_grad_()
    critic = 3 * torch.randn(shape[0], generator=g, dtype=torch.float64)
    return mdp, model(mdp), logits, joint(masked(mdp, logits)), critic


@every_mdp
@every_gamma
def test_gradient_is_autograd_of_the_return_and_the_sum_over_trajectories(name, gamma):
    mdp, m, logits, pi, _ = setting(name)
    objective = m.start @ value(m, pi, gamma)
    expected = torch.autograd.grad(objective, logits, retain_graph=True)[0]
    torch.testing.assert_close(pull(m, pi, exact(m, pi, gamma), logits), expected, **EXACT)
    each = trajectories(mdp, mdp.longest)
    probability = each.probability(pi)
    assert float(probability.sum().detach()) == pytest.approx(1.0)
    discount = gamma ** torch.arange(mdp.longest, dtype=torch.float64)
    total = probability @ each.reward @ discount
    torch.testing.assert_close(total, objective, **EXACT)
    enumerated = torch.autograd.grad(total, logits)[0]
    torch.testing.assert_close(enumerated, expected, **EXACT)
    assert float(expected.abs().max()) > 0.05


SIGNALS = [(0.9, {}), (0.9, {"decay": 0.6}), (1.0, {"decay": 0.0}), (0.8, {"n": 2})]


@every_mdp
@pytest.mark.parametrize(("gamma", "signal"), SIGNALS)
@pytest.mark.parametrize("cut", [0, 1])
def test_credits_are_means_over_trajectories(name, gamma, signal, cut):
    """The recursion over rows against loops over every trajectory; ``cut`` rows are left out."""
    mdp, m, logits, pi, critic = setting(name)
    rows = mdp.longest - cut
    each = trajectories(mdp, rows)
    probability = each.probability(pi).detach()
    after = torch.cat([critic, double([0.0])])  # worth nothing at the end
    credit = torch.zeros(len(probability), rows, dtype=torch.float64)
    for i, length in enumerate(each.length.tolist()):
        v = after[[*each.state[i, :length].tolist(), int(each.last[i])]].tolist()
        never = [False] * length
        lane = each.reward[i, :length].tolist(), v[:-1], v[1:], never, never
        found = (
            naive_n_step(*lane, gamma, signal["n"])
            if "n" in signal
            else naive_gae(*lane, gamma, signal.get("decay", 1.0))
        )
        credit[i, :length] = double(found)
    score = (probability.unsqueeze(1) * credit * pi[each.state, each.action].log()).sum()
    expected = torch.autograd.grad(score, logits, retain_graph=True)[0]
    weighted = by_rows(m, pi, gamma, critic, rows, **signal)
    torch.testing.assert_close(pull(m, pi, weighted, logits), expected, **EXACT)
    if "n" not in signal and cut == 0:
        decay = signal.get("decay", 1.0)
        whole = visits(m, pi, 1.0).unsqueeze(-1) * advantages(m, pi, gamma, decay, critic)
        torch.testing.assert_close(weighted, whole, **EXACT)


@every_gamma
def test_without_bootstrapping_any_critic_is_a_baseline(gamma):
    for name, mdp in MDPS.items():
        _, m, logits, pi, critic = setting(name)
        weighted = by_rows(m, pi, gamma, critic * (not mdp.limited), mdp.longest)
        expected = pull(m, pi, usual(m, pi, gamma), logits)
        torch.testing.assert_close(pull(m, pi, weighted, logits), expected, **EXACT)


def test_the_right_critic_makes_every_decay_right():
    _, m, logits, pi, _ = setting("stairs")
    right = value(m, pi, 0.9).detach()
    expected = pull(m, pi, usual(m, pi, 0.9), logits)
    for decay in (0.0, 0.5, 1.0):
        weighted = by_rows(m, pi, 0.9, right, 3, decay=decay)
        torch.testing.assert_close(pull(m, pi, weighted, logits), expected, **EXACT)
    torch.testing.assert_close((pi * action_value(m, pi, 0.9)).sum(-1), right, **EXACT)


def test_restarts_go_on_without_end():
    """After many rows the mean over rows is that of the stationary chain: episodes in a row."""
    mdp, m, logits, pi, _ = setting("stairs")
    rows, none = 600, torch.zeros(len(mdp.start), dtype=torch.float64)
    many = pull(m, pi, by_rows(m, pi, 1.0, none, rows, n=1, restart=True), logits) / rows
    length = float(visits(m, pi, 1.0).sum().detach())
    weighted = visits(m, pi, 1.0).unsqueeze(-1) * m.reward
    torch.testing.assert_close(many, pull(m, pi, weighted, logits) / length, rtol=0, atol=2e-3)
