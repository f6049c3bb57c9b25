"""Sums over all actions of a learned q: values by hand, exactness, and the variances on record."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from problems import (
    FEATURES,
    INF,
    PROBLEMS,
    bandit,
    double,
    every_choice,
    fitted,
    moments,
    randomise,
    seeded,
    slope_of_squared_norm,
)

from rlgrad.estimators import build, estimate, measure, one_hot

any_fit = pytest.mark.parametrize("fit", ["regression", "variance"])
BOTH = pytest.mark.parametrize("name", ["all-action", "all-action-control"])
JOINT = ["coins", "dice", "masked-dice"]


def at_random(name, masked=False, **chosen):
    """(estimator, draw, value, context) with D = A = 3, 12 rows, everything random, float64."""
    estimator = build(name, 3, 3, FEATURES, hidden=(8, 4), scale=2.0, **chosen).double()
    randomise(estimator, seeded(1))
    logits = torch.randn(12, 3, 3, generator=seeded(2), dtype=torch.float64)
    if masked:
        logits[:, 1, 2] = -INF
    draw = estimator.sample(logits, generator=seeded(3))
    value, context = (
        torch.randn(12, *shape, generator=seeded(4), dtype=torch.float64)
        for shape in ((), (FEATURES,))
    )
    return estimator, draw, value, context


def table(name, q, **chosen):
    """A member whose q is the given numbers ``[D, A]``: no context, no hidden layer."""
    estimator = build(name, *q.shape, hidden=(), scale=2.0, **chosen).double()
    with torch.no_grad():
        estimator.q.network.flat[0, : q.numel()] = q.flatten() / 2.0
    return estimator


def q_by_hand(estimator, context):
    """Q ``[n, 3, 3]`` in numpy, from the network's numbers."""
    (b1, w1), (b2, w2), (b3, w3) = (
        (bias[0].detach().numpy(), weight[0].detach().numpy())
        for bias, weight in estimator.q.network.layers(estimator.q.network.flat)
    )
    q = 2.0 * (np.tanh(np.tanh(context.numpy() @ w1 + b1) @ w2 + b2) @ w3 + b3)
    return q[:, :9].reshape(12, 3, 3)


@BOTH
def test_one_draw_by_hand(name):
    estimator, draw, value, context = at_random(name)
    q, b = q_by_hand(estimator, context), draw.action.numpy()
    u, squares = estimator.gradient(draw, value, context=context), []
    for n in range(12):
        left = float(value[n]) - sum(q[n, d, b[n, d]] for d in range(3))
        squares.append(0.5 * left**2)
        for d, i in itertools.product(range(3), range(3)):
            p = np.exp(draw.logits[n, d].numpy())
            p /= p.sum()
            # The sum over all actions of p(a) q(a) d log p(a) / d l_i.
            by_hand = sum(p[a] * q[n, d, a] * ((a == i) - p[i]) for a in range(3))
            if name == "all-action-control":
                by_hand += left * ((b[n, d] == i) - p[i])
            assert float(u[n, d, i]) == pytest.approx(by_hand, rel=1e-12, abs=1e-12)
    if name == "all-action":
        loss = float(estimator.loss(draw, value, context=context).detach())
        assert loss == pytest.approx(np.mean(squares), rel=1e-12)


def test_both_objectives_of_the_control_by_hand():
    estimator, draw, value, context = at_random("all-action-control", objective="regression")
    q, b = q_by_hand(estimator, context), draw.action.numpy()
    left = value.numpy() - np.take_along_axis(q, b[..., None], -1)[..., 0].sum(-1)
    loss = float(estimator.loss(draw, value, context=context).detach())
    assert loss == pytest.approx((0.5 * left**2).mean(), rel=1e-12)
    assert not estimator.descends_variance
    estimator, draw, value, context = at_random("all-action-control")
    u = estimator.gradient(draw, value, context=context)
    loss = float(estimator.loss(draw, value, context=context).detach())
    assert loss == pytest.approx(float(u.square().sum((-2, -1)).mean()), rel=1e-12)
    assert estimator.descends_variance


@pytest.mark.parametrize("problem", ["bandit", "masked-bandit", *JOINT])
def test_the_control_has_the_exact_expectation_for_any_q(problem):
    problem = PROBLEMS[problem]
    q = 5 * torch.randn(problem.logits.shape, generator=seeded(1), dtype=torch.float64)
    estimator = table("all-action-control", q)
    draw, p = every_choice(problem.logits)
    mean, variance = moments(estimator.gradient(draw, problem.f(one_hot(draw))), p)
    torch.testing.assert_close(mean, problem.exact(), rtol=1e-12, atol=1e-12)
    assert variance > 1


def conditional_means(problem):
    """E[f | b_d = a] ``[D, A]``, 0 for masked categories, and E[f]: by the sum over choices."""
    draw, p = every_choice(problem.logits)
    weighted = p * problem.f(one_hot(draw))
    mass, total = (
        torch.einsum("n,nda->da", each, one_hot(draw).double()) for each in (p, weighted)
    )
    return torch.where(mass > 0, total / mass, 0.0), float(weighted.sum())


@pytest.mark.parametrize("problem", JOINT)
def test_all_action_is_exact_at_the_conditional_means(problem):
    # Whatever is added to all categories of a factor falls out.
    problem = PROBLEMS[problem]
    means, _ = conditional_means(problem)
    for shift in (0.0, 4.0 * torch.arange(3).double()[:, None]):
        estimator = table("all-action", means + shift)
        draw = estimator.sample(problem.logits.expand(2, -1, -1), generator=seeded(1))
        u = estimator.gradient(draw, problem.f(one_hot(draw)))
        torch.testing.assert_close(u[1], problem.exact(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("problem", JOINT)
def test_the_additive_q_of_least_squared_error_is_the_conditional_means(problem):
    # The error is a convex function of a table, so where its slope is zero is the optimum: q_d is
    # E[f | b_d], and E[f] is counted once. f itself is not additive: the error stays above zero.
    problem = PROBLEMS[problem]._replace(noise=0.0)
    means, mean = conditional_means(problem)
    D = len(means)
    draw, p = every_choice(problem.logits)
    value = problem.f(one_hot(draw))
    slopes = []
    for scale in (1.0, 1.1):
        estimator = table("all-action", scale * (means - mean) + mean / D)
        loss = estimator.loss(draw, value, weight=p)
        slopes.append(float(torch.autograd.grad(loss, list(estimator.parameters()))[0].norm()))
        assert float(loss.detach()) > 0.1
    assert slopes[0] < 1e-12
    assert slopes[1] > 1e-2


def test_regressed_all_action_loses_its_bias():
    problem = bandit()
    estimator = build("all-action", 1, 4)
    draw = estimator.sample(problem.logits.float().unsqueeze(0), generator=seeded(1))
    assert not estimator.gradient(draw, torch.ones(1)).any()
    fitted(estimator, problem, steps=400, batch=256, rate=0.1)
    u = estimator.gradient(draw, torch.ones(1))[0]
    torch.testing.assert_close(u.double(), problem.exact(), rtol=0, atol=0.01)


@pytest.mark.parametrize("masked", [False, True])
def test_variance_gradient_is_a_finite_difference(masked):
    # With q detached in either term, or without the exact sum, the slopes differ.
    estimator, draw, value, context = at_random("all-action-control", masked)
    (flat,) = estimator.parameters()
    (grad,) = torch.autograd.grad(estimator.loss(draw, value, context=context), flat)
    step = torch.randn(flat.shape, generator=seeded(5), dtype=torch.float64)
    slope = slope_of_squared_norm(estimator, draw, value, context, step)
    assert abs(slope) > 0.1
    assert slope == pytest.approx(float((grad * step).sum()), rel=1e-6)


def test_direction_gives_the_norm_of_a_parameter_gradient():
    # A linear policy l = W x: its gradient g is the mean of u (x) x, and J v = v x.
    estimator, draw, value, context = at_random("all-action-control")
    x = torch.randn(12, 5, generator=seeded(6), dtype=torch.float64)
    q = estimator.q(context, value)
    p, hot = draw.logits.softmax(-1), one_hot(draw)
    u = (value - (q * hot).sum((-2, -1)))[:, None, None] * (hot - p)
    u = u + p * q - p * (p * q).sum(-1, keepdim=True)
    g = torch.einsum("nda,nk->dak", u, x) / 12
    direction = torch.einsum("dak,nk->nda", g.detach(), x)
    loss = estimator.loss(draw, value, context=context, direction=direction)
    torch.testing.assert_close(loss, g.square().sum(), rtol=1e-12, atol=0)
    (flat,) = estimator.parameters()
    (grad,) = torch.autograd.grad(loss, flat)
    (oracle,) = torch.autograd.grad(g.square().sum(), flat)
    assert oracle.norm() > 0.1
    torch.testing.assert_close(grad, oracle, rtol=1e-10, atol=1e-10)


def test_untrained_the_control_is_reinforce():
    problem = PROBLEMS["masked-dice"]
    control, plain = build("all-action-control", 3, 3).double(), build("reinforce", 3, 3)
    draw = plain.sample(problem.logits.expand(100, 3, 3), generator=seeded(0))
    value = problem.f(one_hot(draw))
    assert torch.equal(control.gradient(draw, value), plain.gradient(draw, value))


# Exact at q = f: nothing is left but the noise, E|s|^2 sd^2. Trained, 5 % above at most.
RECORD = [(0, 0.0), (1, 0.72), (5, 18.0)]


@any_fit
@pytest.mark.parametrize(("noise", "record"), RECORD)
def test_control_variance_is_the_recorded_one(noise, record, fit):
    problem = bandit(noise)
    estimator = build("all-action-control", 1, 4, objective=fit)
    fitted(estimator, problem, steps=400, batch=256, rate=0.1)
    generator = seeded(2)
    f = problem.observed(generator)
    measured = measure(estimator, problem.logits, f, 100_000, generator=generator)
    assert measured.variance == pytest.approx(record, rel=0.05, abs=1e-3)


def test_fitted_to_the_variance_several_factors_vary_less_than_fitted_by_regression():
    # With one factor both end at f; with several the best additive q depends on the norm.
    problem = PROBLEMS["coins"]
    draw, p = every_choice(problem.logits)
    value, variance = problem.f(one_hot(draw)), {}
    for fit in ("regression", "variance"):
        estimator = build("all-action-control", 3, 2, objective=fit, hidden=()).double()
        optimiser = torch.optim.LBFGS(estimator.parameters(), lr=0.5, max_iter=300)

        def closure(estimator=estimator, optimiser=optimiser):
            optimiser.zero_grad()
            loss = estimator.loss(draw, value, weight=p)
            loss.backward()
            return loss

        optimiser.step(closure)
        mean, variance[fit] = moments(estimator.gradient(draw, value), p)
        torch.testing.assert_close(mean, problem.exact(), rtol=1e-12, atol=1e-12)
    assert variance["variance"] < 0.99 * variance["regression"]


@BOTH
def test_masked_and_certain_actions(name):
    logits = double([[[0.3, -INF, 1.0]], [[-INF, 2.0, -INF]], [[1e4, -1e4, 0.0]]])
    estimator = table(name, double([[1.0, -500.0, 4.0]]))
    f = lambda x: (x * double([[1.0, 3.0, 2.0]])).sum((-2, -1))  # noqa: E731
    draw = estimator.sample(logits, generator=seeded(1))
    u = estimator.gradient(draw, f(one_hot(draw)))
    assert u.isfinite().all()
    assert not u[0, 0, 1]
    assert not u[1:].any()
    logits.requires_grad_()
    estimate(estimator, logits, f, generator=seeded(1)).sum().backward()
    assert torch.equal(logits.grad, u)
