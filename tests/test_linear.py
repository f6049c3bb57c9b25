"""RELAX with a linear control variate: its mean, its fit, and the scale that falls to zero.

Chance of failing by luck: see tests/problems.py; 16 comparisons here.
"""

from __future__ import annotations

import pytest
import torch
from problems import INF, PROBLEMS, Z_BOUND, double, seeded, worst_z
from torch import nn

from rlgrad.errors import UsageError
from rlgrad.estimators import build, one_hot
from rlgrad.estimators.base import Draw, score

FORMS = [("relaxed", "coupled"), ("relaxed", "independent"), ("exact-sum", "coupled")]
every_form = pytest.mark.parametrize(("form", "coupling"), FORMS)


def arbitrary(form, coupling, D=1, A=4, C=2, seed=3, **options):
    """A member whose c is far from zero and wholly used."""
    estimator = build("relax-linear", D, A, C, form=form, coupling=coupling, **options).double()
    solver = estimator.solver
    solver.weights.copy_(torch.randn(solver.weights.shape, generator=seeded(seed)))
    solver.outcome.mean.fill_(1.0)
    return estimator


def batch(rows, D, A, C, seed=0):
    g = seeded(seed)
    logits = torch.randn(rows, D, A, generator=g, dtype=torch.float64)
    x = torch.randn(rows, C, generator=g, dtype=torch.float64)
    return logits, x


@pytest.mark.parametrize("problem", ["bandit", "masked-bandit", "dice", "masked-dice"])
@every_form
def test_the_mean_is_exact_whatever_the_weights(form, coupling, problem):
    chosen = PROBLEMS[problem]
    estimator = arbitrary(form, coupling, *chosen.logits.shape)
    context = double([0.7, -1.2])
    assert worst_z(estimator, chosen, 100_000, 17, context=context) < Z_BOUND
    draw = estimator.sample(chosen.logits.expand(50, -1, -1), generator=seeded(1))
    c = estimator.gradient(draw, torch.zeros(50).double(), context=context.expand(50, 2))
    assert float(c.abs().max()) > 0.1  # the weights do say something


class Linear(nn.Module):
    """The same c(z, x), for the estimator that differentiates it by autograd."""

    def __init__(self, estimator):
        super().__init__()
        self.estimator = estimator

    def forward(self, z, context):
        e, rows = self.estimator, z.shape[0]
        features = e.columns.features(context, z.new_zeros(rows))[0]
        w = e.solver.weights[0].to(z)
        y = (z / e.temperature).softmax(-1).flatten(1)
        if e.columns.mixing is not None:
            y = y @ e.columns.mixing.to(y).flatten(0, 1)
        plain, J = e.columns.plain, e.columns.state
        q = features[:, :plain] @ w[J:].view(e.columns.read, -1)[:plain]
        return features @ w[:J] + (y * q).sum(-1)


@pytest.mark.parametrize("coupling", ["coupled", "independent"])
@pytest.mark.parametrize("shape", [(1, 4), (3, 2), (1, 40), (9, 4)], ids=str)
def test_relaxed_is_relax_with_that_c(coupling, shape):
    ours = arbitrary("relaxed", coupling, *shape)
    theirs = build("relax", *shape, 2, control=Linear(ours), coupling=coupling)
    logits, x = batch(40, *shape, 2)
    draw = ours.sample(logits, generator=seeded(1))
    value = torch.randn(40, generator=seeded(2), dtype=torch.float64)
    u = ours.gradient(draw, value, context=x)
    torch.testing.assert_close(u, theirs.gradient(draw, value, context=x), rtol=1e-12, atol=1e-12)


def test_exact_sum_by_hand():
    estimator = arbitrary("exact-sum", "coupled", 1, 3, 0)
    w = estimator.solver.weights[0].double()
    v, q = w[0], w[estimator.columns.state :][:3]
    logits, f = double([[0.3, -0.2, 0.9]]), 1.7
    p = logits.softmax(-1)[0]
    draw = estimator.sample(logits.expand(20, 1, 3), generator=seeded(1))
    u = estimator.gradient(draw, torch.full((20,), f, dtype=torch.float64))
    for i, b in enumerate(draw.action[:, 0].tolist()):
        s = one_hot(draw)[i, 0] - p
        by_hand = (f - v - q[b]) * s + p * (q - (p * q).sum())
        torch.testing.assert_close(u[i, 0], by_hand, rtol=1e-12, atol=1e-12)


@every_form
@pytest.mark.parametrize("shape", [(1, 3), (2, 3), (1, 30), (7, 4)], ids=str)
def test_the_fit_is_the_least_squared_norm(form, coupling, shape):
    """Against numpy's least squares on columns taken one weight at a time from the gradient."""
    estimator = build(
        "relax-linear", *shape, 2, form=form, coupling=coupling, width=3, ridge=1e-3, decay=1.0
    ).double()
    logits, x = batch(300, *shape, 2)
    logits[:, 0, 1] = -INF
    draw = estimator.sample(logits, generator=seeded(1))
    value = torch.randn(300, generator=seeded(2), dtype=torch.float64) + x[:, 0] + 3
    keep = (torch.arange(300) % 3 > 0).double()
    estimator.observe(draw, torch.where(keep > 0, value, 1e9), context=x, weight=keep)
    fitted, solver = estimator.solver.weights[0].clone(), estimator.solver
    solver.outcome.mean.fill_(1.0)
    zero, columns = torch.zeros(300, dtype=torch.float64), []
    for k in range(solver.columns):
        solver.weights.zero_()[0, k] = -1.0
        columns.append((estimator.gradient(draw, zero, context=x)[keep > 0]).flatten())
    R, plain = torch.stack(columns, -1), (value[:, None, None] * score(draw))[keep > 0].flatten()
    ridge = 1e-3 * (R * R).sum(0).mean()
    wanted = torch.linalg.solve(R.T @ R + ridge * torch.eye(R.shape[1]).double(), R.T @ plain)
    torch.testing.assert_close(fitted, wanted, rtol=1e-7, atol=1e-9)
    assert float((plain - R @ fitted).square().sum()) < 0.5 * float(plain.square().sum())


def play(estimator, batches, noise, seed=1):
    """Ratios of mean |u|^2 to that without c, along fresh batches of a fixed bandit."""
    g, ratios = seeded(seed), []
    logits = double([[0.5, 0.0, -0.5, 0.3]]).expand(64, 1, 4)
    table = double([1, 3, 2, 5])
    for _ in range(batches):
        draw = estimator.sample(logits, generator=g)
        value = noise * torch.randn(64, generator=g, dtype=torch.float64)
        if noise < 10:
            value = value + table[draw.action[:, 0]]
        u, plain = estimator.gradient(draw, value), value[:, None, None] * score(draw)
        ratios.append(float(u.square().sum() / plain.square().sum()))
        estimator.observe(draw, value)
    return ratios


@every_form
def test_untrained_it_is_reinforce_and_trained_it_pays(form, coupling):
    estimator = build("relax-linear", 1, 4, form=form, coupling=coupling).double()
    ratios = play(estimator, 60, noise=0.5)
    assert ratios[:2] == [1.0, 1.0]  # nothing is used before it was judged on draws of its future
    assert sum(ratios[-20:]) / 20 < 0.35


def test_the_share_falls_to_zero_where_nothing_carries_over():
    estimator = build("relax-linear", 1, 4, decay=0.5).double()
    play(estimator, 30, noise=0.5)
    assert float(estimator.solver.share()) > 0.9
    ratios = play(estimator, 60, noise=50.0)
    assert sum(ratios[-40:]) / 40 < 1.02
    assert float(estimator.solver.share()) < 0.5


def test_a_change_of_units_changes_nothing_else():
    first, second = (build("relax-linear", 1, 4).double() for _ in range(2))
    for estimator in (first, second):
        play(estimator, 10, noise=0.5)
    second.rescale(torch.tensor([[3.0]]).double())
    logits = torch.zeros(5, 1, 4, dtype=torch.float64)
    draw = first.sample(logits, generator=seeded(1))
    value = torch.arange(5).double()
    u, scaled = first.gradient(draw, value), second.gradient(draw, 3 * value)
    torch.testing.assert_close(scaled, 3 * u, rtol=1e-12, atol=1e-12)
    for estimator, factor in ((first, 1.0), (second, 3.0)):
        estimator.observe(draw, factor * value)
    torch.testing.assert_close(second.solver.weights, 3 * first.solver.weights)


def test_many_choices_are_mixed_and_the_mean_is_exact():
    """The sum over all choices, so nothing is left to luck."""
    A = 90
    estimator = arbitrary("exact-sum", "coupled", 1, A, 0)
    assert estimator.columns.mixing.shape == (1, A, 72)
    logits = torch.randn(1, A, generator=seeded(1), dtype=torch.float64)
    f = torch.randn(A, generator=seeded(2), dtype=torch.float64)
    p = logits.softmax(-1)[0]
    nothing = torch.zeros(A, 1, A, dtype=torch.float64)
    draw = Draw(logits.expand(A, 1, A), nothing, nothing, torch.arange(A).unsqueeze(1))
    mean = (p[:, None] * estimator.gradient(draw, f)[:, 0]).sum(0)
    torch.testing.assert_close(mean, p * (f - (p * f).sum()), rtol=1e-10, atol=1e-12)
    alone = estimator.gradient(draw, torch.zeros(A).double())
    assert float(alone.abs().max()) > 0.1


def test_weights_do_not_grow_with_choices():
    columns = [build("relax-linear", 1, A, 4).solver.columns for A in (2, 8, 32, 512)]
    assert columns[-1] == columns[-2] < 150
    several, alone = build("relax-linear", 2, 40, 3, seeds=3), build("relax-linear", 2, 40, 3)
    g = seeded(1)
    logits, x = torch.randn(3, 20, 2, 40, generator=g), torch.randn(3, 20, 3, generator=g)
    draw, value = several.sample(logits, generator=g), torch.randn(3, 20, generator=g)
    for _ in range(2):
        several.gradient(draw, value, context=x)
        several.observe(draw, value, context=x)
    own = Draw(*(each[:1] for each in draw))
    for _ in range(2):
        alone.gradient(own, value[:1], context=x[:1])
        alone.observe(own, value[:1], context=x[:1])
    assert several.solver.weights[:1].equal(alone.solver.weights)


def test_refusals():
    with pytest.raises(ValueError, match="got temperature 0"):
        build("relax-linear", temperature=0.0)
    with pytest.raises(UsageError, match="width 4000; expected at most 2,048: give it a"):
        build("relax-linear", 1, 2, 10, width=4000)
