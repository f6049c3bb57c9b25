"""The Gumbel noise of a choice, and z given the action: against rejection sampling."""

from __future__ import annotations

import math

import pytest
import torch
from problems import (
    BANDIT_LOGITS,
    COINS_LOGITS,
    DICE_LOGITS,
    INF,
    KS_BOUND,
    PROBLEMS,
    Z_BOUND,
    double,
    ks,
    seeded,
    z_of_mean,
)

from rlgrad.estimators import build, noise

EULER = 0.5772156649015329
LOGITS = {
    "coin": double([[0.4, -0.3]]),
    "bandit": BANDIT_LOGITS,
    "shifted": BANDIT_LOGITS + 3.0,  # log_softmax must not be forgotten anywhere
    "coins": COINS_LOGITS,
    "dice": DICE_LOGITS,
    "masked": PROBLEMS["masked-dice"].logits,
    "peaked": double([[6.0, 0.0, -2.0]]),
}
DRAWS = 100_000
any_logits = pytest.mark.parametrize("logits", LOGITS.values(), ids=LOGITS.keys())


def draws_at(logits, seed, n=DRAWS):
    """(Draw, z, z given its action) for n choices; z~ has noise of its own."""
    repeated = logits.expand(n, *logits.shape)
    draw = build("relax", *logits.shape).sample(repeated, generator=seeded(seed))
    z = noise.relaxed(repeated, draw.gumbel)
    return draw, z, noise.relaxed_given_action(repeated, draw.action, draw.second)


def finite(x):
    """Masked entries, -inf in z and z~ alike, as zeros."""
    return torch.where(x.isneginf(), 0.0, x)


def test_noise_has_its_distribution_and_is_positive():
    like = torch.zeros((), dtype=torch.float64)
    e = noise.exponential((DRAWS,), like, seeded(1))
    assert (e > 0).all()
    assert z_of_mean(torch.stack([e, e**2], 1), double([1.0, 2.0])) < Z_BOUND
    single = noise.exponential((1_000_000,), torch.zeros(()), seeded(1))
    assert single.dtype == torch.float32
    assert single.min() >= torch.finfo(torch.float32).tiny
    again = noise.exponential((1_000_000,), torch.zeros(()), seeded(1))
    assert torch.equal(single, again)


def test_a_zero_from_the_sampler_is_no_infinity(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "exponential_", lambda self, **_: self.zero_())
    assert noise.exponential((3,), torch.zeros(())).log().isfinite().all()


@any_logits
def test_actions_have_the_probabilities_of_the_logits(logits):
    draw, z, _ = draws_at(logits, 11)
    assert torch.equal(z.argmax(-1), draw.action)
    hot = torch.nn.functional.one_hot(draw.action, logits.shape[-1]).double()
    assert z_of_mean(hot, logits.softmax(-1)) < Z_BOUND


def test_given_noise_is_used_as_it_is():
    logits = DICE_LOGITS.expand(5, 3, 3)
    gumbel, second = torch.rand(2, 5, 3, 3, generator=seeded(0), dtype=torch.float64)
    draw = build("relax", 3, 3).sample(logits, noise_pair=(gumbel, second))
    assert torch.equal(draw.gumbel, gumbel)
    assert torch.equal(draw.second, second)
    assert torch.equal(draw.action, (logits.log_softmax(-1) + gumbel).argmax(-1))


@any_logits
def test_the_largest_entry_given_the_action_is_the_action(logits):
    draw, _, tilde = draws_at(logits, 12)
    assert torch.equal(tilde.argmax(-1), draw.action)
    assert torch.equal(tilde.isneginf(), logits.isneginf().expand_as(tilde))


def distance(z, tilde, action, logits):
    """Worst KS statistic of z against z~, given each action of factor 0.

    Marginals of each entry, and functions of several entries that see their dependence.
    """
    worst = 0.0
    for a in range(logits.shape[-1]):
        chosen = action[:, 0] == a
        # The first half is z, the second z~: no draw contributes to both.
        first, second = chosen.clone(), chosen.clone()
        first[DRAWS // 2 :] = False
        second[: DRAWS // 2] = False
        if first.sum() < 100:
            continue
        x, y = z[first, 0], tilde[second, 0]
        seen = ~logits[0].isneginf()
        columns = [*x[:, seen].T, x[:, seen].sum(-1), x[:, seen].topk(2, -1)[0].diff(dim=-1)[:, 0]]
        others = [*y[:, seen].T, y[:, seen].sum(-1), y[:, seen].topk(2, -1)[0].diff(dim=-1)[:, 0]]
        worst = max(worst, *(ks(p, q) for p, q in zip(columns, others, strict=True)))
    return worst


@any_logits
def test_z_given_the_action_is_z_where_that_action_was_drawn(logits):
    draw, z, tilde = draws_at(logits, 13)
    assert distance(z, tilde, draw.action, logits) < KS_BOUND


@any_logits
def test_moments_given_the_action_average_to_those_of_z(logits):
    _, z, tilde = draws_at(logits, 14)
    p = logits.softmax(-1)
    mean = torch.where(p > 0, logits.log_softmax(-1) + EULER, 0.0)  # of a shifted Gumbel
    second = torch.where(p > 0, mean**2 + math.pi**2 / 6, 0.0)
    for sample in (finite(z), finite(tilde)):
        assert z_of_mean(sample, mean) < Z_BOUND
        assert z_of_mean(sample**2, second) < Z_BOUND
    # The largest of Gumbels whose weights sum to one is a standard Gumbel, whatever the logits.
    for sample in (z, tilde):
        top = sample.amax(-1)
        assert z_of_mean(top, torch.full_like(top[0], EULER)) < Z_BOUND


def wrong_constant(logits, action, second):
    """Logits not normalised: argmax is still right."""
    index, e = action.unsqueeze(-1), second
    top = e.gather(-1, index)
    below = -(e / logits.exp() + top).log()
    return below.scatter(-1, index, -top.log())


def wrong_index(logits, action, second):
    """Entries truncated at their own noise instead of the action's."""
    index, e = action.unsqueeze(-1), second
    below = -(e / logits.softmax(-1) + e).log()
    return below.scatter(-1, index, -e.gather(-1, index).log())


def wrong_scale(logits, action, second):
    """The action's noise divided by its probability, as if it were an entry like the others."""
    index, e, p = action.unsqueeze(-1), second, logits.softmax(-1)
    top = (e / p).gather(-1, index)
    return (-(e / p + top).log()).scatter(-1, index, -top.log())


def not_truncated(logits, action, second):
    """Independent Gumbels, without the condition."""
    return logits.log_softmax(-1) - second.log()


@pytest.mark.parametrize("wrong", [wrong_constant, wrong_index, wrong_scale, not_truncated])
def test_wrong_conditionals_are_detected(wrong):
    # Mistake 4 and its relatives: a test that accepts these proves nothing.
    logits = LOGITS["shifted"]
    draw, z, _ = draws_at(logits, 13)
    tilde = wrong(draw.logits, draw.action, draw.second)
    if wrong is wrong_constant:
        assert torch.equal(tilde.argmax(-1), draw.action)  # what an argmax test alone would see
    assert distance(z, tilde, draw.action, logits) > 2 * KS_BOUND


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_extreme_logits_and_noise_give_no_nan(dtype):
    info = torch.finfo(dtype)
    rows = [[1e4, -1e4, 0], [-INF, 1e4, -1e4], [-INF, -INF, 2], [1e30, 0, -1e30], [0, 0, -INF]]
    logits = torch.tensor(rows, dtype=dtype).unsqueeze(1)
    for e in (info.tiny, 1.0, 1e4):
        second = torch.full_like(logits, e)
        for action in range(3):
            possible = logits[:, 0, action] > -INF
            chosen = torch.full((int(possible.sum()), 1), action)
            tilde = noise.relaxed_given_action(logits[possible], chosen, second[possible])
            assert not tilde.isnan().any()
            assert tilde[..., action].isfinite().all()
            assert torch.equal(tilde.isneginf(), logits[possible].isneginf())
            room = noise.slack(tilde, chosen)
            assert ((room >= 0) & (room <= 1)).all()
            assert (room[..., action] == 1).all()


def test_slack_is_the_derivative_that_it_claims():
    logits = DICE_LOGITS.expand(50, 3, 3)
    draw = build("relax", 3, 3).sample(logits, generator=seeded(2))
    log_p = logits.log_softmax(-1).requires_grad_()
    e, index = draw.second, draw.action.unsqueeze(-1)
    tilde = -(e / log_p.exp() + e.gather(-1, index)).log()  # the formula; entries off the action
    (slope,) = torch.autograd.grad(tilde.sum(), log_p)
    value = noise.relaxed_given_action(logits, draw.action, draw.second)
    off = torch.ones_like(value).scatter(-1, index, 0.0).bool()
    torch.testing.assert_close(value[off], tilde.detach()[off], rtol=1e-12, atol=1e-12)
    room = noise.slack(value, draw.action)
    torch.testing.assert_close((1 - room)[off], slope[off], rtol=1e-10, atol=1e-12)
    assert (room[~off] == 1).all()
