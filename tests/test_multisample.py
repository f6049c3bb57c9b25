"""Leave-one-out and DisARM: values by hand, exact expectations, and the variances on record."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from problems import (
    COINS_LOGITS,
    INF,
    PROBLEMS,
    Z_BOUND,
    bandit,
    bernoulli_toy,
    double,
    every_choice,
    moments,
    seeded,
    values_at,
    worst_z,
)

from rlgrad.errors import UsageError
from rlgrad.estimators import build, measure, one_hot

RNG = np.random.default_rng(0)


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def sampled(estimator, logits, gumbel):
    """The draw at written noise."""
    gumbel = torch.tensor(gumbel)
    return estimator.sample(torch.tensor(logits), noise_pair=(gumbel, torch.ones_like(gumbel)))


# -------------------------------------------------------------------------------- leave-one-out


@pytest.mark.parametrize("draws", [2, 3, 5])
def test_leave_one_out_by_hand(draws):
    logits, gumbel = RNG.normal(size=(4, 2, 3)), RNG.gumbel(size=(draws, 4, 2, 3))
    f = RNG.normal(size=(draws, 4))
    estimator = build("leave-one-out", 2, 3, draws=draws)
    draw = sampled(estimator, logits, gumbel)
    assert draw.logits.shape == (draws, 4, 2, 3)
    u = estimator.gradient(draw, torch.tensor(f))
    p, b = softmax(logits), (logits + gumbel).argmax(-1)
    for n, d, a in itertools.product(range(4), range(2), range(3)):
        by_hand = 0.0
        for k in range(draws):
            others = [f[j, n] for j in range(draws) if j != k]
            by_hand += (f[k, n] - sum(others) / len(others)) * ((b[k, n, d] == a) - p[n, d, a])
        assert float(u[n, d, a]) == pytest.approx(by_hand / draws, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(("problem", "draws"), [("bandit", 2), ("bandit", 4), ("masked-dice", 2)])
def test_leave_one_out_has_the_exact_expectation(problem, draws):
    # A baseline that includes the draw itself would give (K - 1) / K of it.
    problem = PROBLEMS[problem]
    estimator = build("leave-one-out", *problem.logits.shape, draws=draws)
    draw, p = every_choice(problem.logits, draws)
    mean, _ = moments(estimator.gradient(draw, values_at(estimator, draw, problem.f)), p)
    torch.testing.assert_close(mean, problem.exact(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("logit", [0.0, 1.0, 2.0])
def test_leave_one_out_on_the_toy(logit):
    # With K = 2 u is +-.001 where the draws differ: they do with probability q = 2 p (1 - p), and
    # then u has one sign. The recorded bound is for the one logistic parameter, half the total.
    problem, estimator = bernoulli_toy(logit), build("leave-one-out")
    measured = measure(estimator, problem.logits, problem.f, 200_000, generator=seeded(3))
    p = 1 / (1 + math.exp(-logit))
    q = 2 * p * (1 - p)
    log_variance = math.log(measured.variance / 2)
    assert log_variance == pytest.approx(math.log(0.001**2 * q * (1 - q)), abs=0.05)
    assert log_variance < -15


# Total variance on the noiseless bandit, by the sum over all tuples of draws: K draws cost K values
# of f. The mean of as many reinforce estimates has 6.62 for one value; a perfect baseline 0.893.
RECORD = {2: 1.8284, 4: 0.4535}


@pytest.mark.parametrize("draws", RECORD)
def test_leave_one_out_at_equal_evaluations(draws):
    problem = bandit()
    estimator = build("leave-one-out", 1, 4, draws=draws)
    draw, p = every_choice(problem.logits, draws)
    _, variance = moments(estimator.gradient(draw, values_at(estimator, draw, problem.f)), p)
    assert variance == pytest.approx(RECORD[draws], abs=1e-4)
    measured = measure(estimator, problem.logits, problem.f, 200_000, generator=seeded(1))
    assert measured.variance == pytest.approx(variance, rel=0.05)
    assert measured.evaluations == draws
    assert measured.work_normalised_variance == draws * measured.variance
    assert 0.893 < measured.work_normalised_variance < 6.62


def test_fewer_than_two_draws_are_refused():
    with pytest.raises(ValueError, match=r"got draws 1; expected at least 2, or use reinforce"):
        build("leave-one-out", draws=1)


# -------------------------------------------------------------------------------------- disarm


def test_disarm_by_hand():
    # From the paper's form: one uniform u per factor, b = 1[u < p], b' = 1[u > 1 - p].
    logit, uniform = RNG.normal(size=(50, 3)), RNG.uniform(size=(50, 3))
    logits = np.stack([np.zeros_like(logit), logit], -1) + RNG.normal(size=(50, 3, 1))
    noise = np.stack([np.zeros_like(uniform), np.log(1 / uniform - 1)], -1)
    f = RNG.normal(size=(2, 50))
    estimator = build("disarm", 3, 2)
    draw = sampled(estimator, logits, np.stack([noise, noise]))
    u = estimator.gradient(draw, torch.tensor(f))
    differ = 0
    for n, d in itertools.product(range(50), range(3)):
        p = 1 / (1 + math.exp(-logit[n, d]))
        b, other = int(uniform[n, d] < p), int(uniform[n, d] > 1 - p)
        assert draw.action[:, n, d].tolist() == [b, other]
        sigmoid = 1 / (1 + math.exp(-abs(logit[n, d])))
        g = 0.5 * (f[0, n] - f[1, n]) * (-1) ** other * (b != other) * sigmoid
        assert u[n, d].tolist() == pytest.approx([-g, g], rel=1e-12, abs=1e-12)
        differ += b != other
    assert 50 < differ < 150


def cells(logits):
    """(noise ``[n, D, 2]``, probability ``[n]``): one point of every cell where nothing changes.

    A factor's estimate changes where its uniform crosses p or 1 - p.
    """
    edges = [sorted((0.0, q, 1 - q, 1.0)) for q in logits.softmax(-1)[:, 0].tolist()]
    middles = [[(low + high) / 2 for low, high in itertools.pairwise(each)] for each in edges]
    widths = [[high - low for low, high in itertools.pairwise(each)] for each in edges]
    uniform = double(list(itertools.product(*middles)))
    p = double(list(itertools.product(*widths))).prod(-1)
    return torch.stack([torch.zeros_like(uniform), (1 / uniform - 1).log()], -1), p


# Total variance, and that of leave-one-out with as many values (two).
@pytest.mark.parametrize(
    ("problem", "record", "leave_one_out"), [("coin", 0.4485, 1.1106), ("coins", 3.6377, 5.0562)]
)
def test_disarm_has_the_exact_expectation(problem, record, leave_one_out):
    problem = PROBLEMS[problem]
    D = len(problem.logits)
    estimator = build("disarm", D, 2)
    noise, p = cells(problem.logits)
    assert float(p.sum()) == pytest.approx(1.0)
    pair = torch.stack([noise, noise]), torch.ones(2, *noise.shape).double()
    draw = estimator.sample(problem.logits.expand_as(noise), noise_pair=pair)
    u = estimator.gradient(draw, values_at(estimator, draw, problem.f))
    mean, variance = moments(u, p)
    torch.testing.assert_close(mean, problem.exact(), rtol=1e-12, atol=1e-12)
    assert variance == pytest.approx(record, abs=1e-4)
    measured = measure(estimator, problem.logits, problem.f, 200_000, generator=seeded(1))
    assert measured.variance == pytest.approx(variance, rel=0.05)
    assert measured.evaluations == 2
    twice = build("leave-one-out", D, 2)
    draw, p = every_choice(problem.logits, 2)
    _, variance = moments(twice.gradient(draw, values_at(twice, draw, problem.f)), p)
    assert variance == pytest.approx(leave_one_out, abs=1e-4)


def test_disarm_has_no_variance_at_logit_zero_of_one_coin():
    problem = bernoulli_toy(0.0)
    measured = measure(build("disarm"), problem.logits, problem.f, 1000, generator=seeded(1))
    assert measured.variance < 1e-30
    torch.testing.assert_close(measured.mean, problem.exact(), rtol=1e-12, atol=0)


def test_the_second_draw_has_swapped_noise_and_the_distribution_of_the_first():
    n, estimator = 100_000, build("disarm", 3, 2)
    draw = estimator.sample(COINS_LOGITS.expand(n, 3, 2), generator=seeded(1))
    assert torch.equal(draw.gumbel[1], draw.gumbel[0].flip(-1))
    assert torch.equal(draw.action, (draw.logits + draw.gumbel).argmax(-1))
    p = COINS_LOGITS.softmax(-1)[:, 1]
    error = (p * (1 - p) / n).sqrt()
    for action in draw.action:
        assert ((action.double().mean(0) - p) / error).abs().max() < Z_BOUND
    # As far apart as the distribution allows.
    q = 2 * torch.minimum(p, 1 - p)
    differ = (draw.action[0] != draw.action[1]).double().mean(0)
    assert ((differ - q) / (q * (1 - q) / n).sqrt()).abs().max() < Z_BOUND


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_disarm_mean_in_many_draws(dtype):
    problem = PROBLEMS["coins"]
    problem = problem._replace(logits=problem.logits.to(dtype))
    assert worst_z(build("disarm", 3, 2), problem, 2_000_000, seed=9) < Z_BOUND


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_disarm_at_masked_and_extreme_logits(dtype):
    rows = [[0, -INF], [-INF, 3], [1e4, -1e4], [-1e4, 1e4], [1e4, 1e4], [60, -60]]
    logits = torch.tensor(rows, dtype=dtype).repeat(30, 1).unsqueeze(1)
    estimator = build("disarm", 1, 2)
    draw = estimator.sample(logits, generator=seeded(1))
    u = estimator.gradient(draw, 3 * one_hot(draw)[..., 0, 1])
    by_row = u.view(30, 6, 2)
    assert not by_row[:, [0, 1, 2, 3, 5]].any()
    assert (by_row[:, 4].abs() == 0.75).all()


def test_disarm_is_refused_for_three_categories():
    with pytest.raises(UsageError, match=r"2 categories, got 3; use relax or leave-one-out"):
        build("disarm", 1, 3)
