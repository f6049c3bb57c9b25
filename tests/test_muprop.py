"""MuProp: values by hand, its exact mean and variance, and the dot product over all factors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from problems import (
    PROBLEMS,
    SMOOTH,
    Z_BOUND,
    Problem,
    double,
    enumerated,
    every_choice,
    seeded,
    table,
    waves,
    worst_z,
)

from rlgrad.estimators import build, one_hot

ALL = {**PROBLEMS, **SMOOTH}
every_problem = pytest.mark.parametrize("problem", ALL.values(), ids=ALL.keys())


def cube(x):
    return x[..., 0, 1] ** 3


@pytest.mark.parametrize(("action", "value", "u"), [(1, 1, 91 / 256), (0, 0, -81 / 256)])
def test_one_draw_in_fractions(action, value, u):
    # p = (1/4, 3/4), f = x_2^3: f(p) = 27/64, f'(p) = (0, 27/16), score_2 = 1/4 or -3/4, so
    # u_2 = (1 - 27/64 - 27/64) / 4 + 81/256 or (0 - 27/64 + 81/64) (-3/4) + 81/256.
    logits = double([[[5.0, 5.0 + math.log(3)]]])
    draw = every_choice(logits[0])[0]._replace(logits=logits, action=torch.tensor([[action]]))
    estimate = build("muprop").gradient(draw, double([value]), f=cube)
    torch.testing.assert_close(estimate, double([[[-u, u]]]), rtol=1e-13, atol=0)


def muprop_by_hand(logits, b, value, w, v):
    """u of one choice for f(x) = sum_k v_k exp(w_k . x), in numpy and loops."""
    D, A = logits.shape
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    part = [v[k] * math.exp((w[k] * p).sum()) for k in range(len(v))]
    slope = sum(part[k] * w[k] for k in range(len(v)))
    taylor = sum(part)
    for d in range(D):
        taylor += slope[d, b[d]] - sum(p[d, a] * slope[d, a] for a in range(A))
    u = np.zeros((D, A))
    for d in range(D):
        for j in range(A):
            u[d, j] = (value - taylor) * ((j == b[d]) - p[d, j])
            for i in range(A):
                u[d, j] += ((i == j) * p[d, i] - p[d, i] * p[d, j]) * slope[d, i]
    return u


@pytest.mark.parametrize("shape", [(1, 2), (1, 4), (3, 3)], ids=str)
def test_draws_by_hand(shape):
    # The value is not f's: a return from elsewhere, of which f is a guess.
    rng = np.random.default_rng(0)
    logits, value = rng.normal(size=(8, *shape)), rng.normal(size=8)
    w, v = rng.normal(size=(3, *shape)), rng.normal(size=3)
    estimator = build("muprop", *shape)
    draw = estimator.sample(torch.tensor(logits), generator=seeded(1))

    def f(x):
        return torch.einsum("...da,kda->...k", x, torch.tensor(w)).exp() @ torch.tensor(v)

    u = estimator.gradient(draw, torch.tensor(value), f=f)
    for k in range(8):
        by_hand = muprop_by_hand(logits[k], draw.action[k].tolist(), value[k], w, v)
        np.testing.assert_allclose(u[k].numpy(), by_hand, rtol=1e-12, atol=1e-12)


@every_problem
def test_mean_over_all_choices_is_the_exact_gradient(problem):
    mean, _ = enumerated(build("muprop"), problem)
    torch.testing.assert_close(mean, problem.exact(), rtol=0, atol=1e-13)


@every_problem
def test_mean_is_the_exact_gradient_for_a_wrong_f(problem):
    # As with a learned critic: the expansion is of another function than the value's.
    wrong = table(waves(*[problem.logits.shape[1]] * problem.logits.shape[0]) - 2)
    draw, p = every_choice(problem.logits)
    u = build("muprop").gradient(draw, problem.f(one_hot(draw)), f=lambda x: wrong(x).exp())
    mean = (p[:, None, None] * u).sum(0)
    torch.testing.assert_close(mean, problem.exact(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("problem", SMOOTH.values(), ids=SMOOTH.keys())
def test_mean_of_draws_is_the_exact_gradient(problem):
    assert worst_z(build("muprop"), problem, 100_000, seed=1) < Z_BOUND


@pytest.mark.slow
@every_problem
def test_mean_of_many_draws_is_the_exact_gradient(problem):
    assert worst_z(build("muprop"), problem, 1_000_000, seed=2) < Z_BOUND


@pytest.mark.parametrize("name", ["coin", "bandit", "masked-bandit"])
def test_a_linear_f_leaves_no_variance(name):
    assert enumerated(build("muprop"), PROBLEMS[name])[1] < 1e-25


def own_factor(problem):
    """Variance of the other form, whose dot product runs over the score's own factor alone."""
    draw, p = every_choice(problem.logits)
    mean = draw.logits.softmax(-1).requires_grad_()
    f = problem.f(mean)
    (slope,) = torch.autograd.grad(f.sum(), mean)
    mean, score = mean.detach(), one_hot(draw) - mean.detach()
    slope = torch.where(mean > 0, slope, 0.0)
    rest = problem.f(one_hot(draw)) - f.detach()
    u = (rest[:, None, None] - (slope * score).sum(-1, keepdim=True)) * score
    u = u + mean * (slope - (slope * mean).sum(-1, keepdim=True))
    weight = p[:, None, None]
    assert ((weight * u).sum(0) - problem.exact()).abs().max() < 1e-13  # unbiased too
    return float((weight * (u - problem.exact()) ** 2).sum())


# Exact variances by enumeration: (all factors, own factor alone, reinforce).
RECORD = {
    "coins": (5.094, 5.747, 6.645),
    "dice": (8.173, 8.675, 9.539),
    "masked-dice": (2.679, 4.597, 5.767),
    "toy": (1.787, 3.841, 8.943),
}


@pytest.mark.parametrize("name", RECORD)
def test_the_dot_product_over_all_factors_varies_less(name):
    problem = ALL[name]
    found = (
        enumerated(build("muprop"), problem)[1],
        own_factor(problem),
        enumerated(build("reinforce"), problem)[1],
    )
    assert found == pytest.approx(RECORD[name], abs=5e-4)


def test_a_derivative_that_is_infinite_at_masked_categories_does_not_matter():
    problem = Problem(PROBLEMS["masked-dice"].logits, lambda x: x.sqrt().sum((-2, -1)))
    mean, _ = enumerated(build("muprop"), problem)
    # f is constant at one-hot choices.
    torch.testing.assert_close(mean, torch.zeros(3, 3).double(), rtol=0, atol=1e-14)
