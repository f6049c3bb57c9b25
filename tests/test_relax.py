"""RELAX: values by hand, its training objective against double backward, and known mistakes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import (
    BANDIT_F,
    BANDIT_LOGITS,
    FEATURES,
    INF,
    PROBLEMS,
    Z_BOUND,
    bandit,
    make,
    randomise,
    relax_oracle,
    seeded,
    worst_z,
    z_of_mean,
)
from torch import nn

from rlgrad.estimators import build, measure, one_hot, options

COUPLINGS = ("coupled", "independent")
any_coupling = pytest.mark.parametrize("coupling", COUPLINGS)
any_temperature = pytest.mark.parametrize("temperature", [0.5, 0.0])


class Ridge(nn.Module):
    """A control variate simple enough for a derivative by hand: c(z) = w . tanh(B z)."""

    def __init__(self, B, w):
        super().__init__()
        self.B, self.w = nn.Parameter(torch.tensor(B)), nn.Parameter(torch.tensor(w))

    def forward(self, z, context):
        return (z.flatten(-2) @ self.B.T).tanh() @ self.w

    def tangent(self, z, dz, context):
        y = (z.flatten(-2) @ self.B.T).tanh()
        return y @ self.w, ((1 - y**2) * (dz.flatten(-2) @ self.B.T)) @ self.w


def relax_by_hand(logits, gumbel, e, f, B, w, coupling):
    """u of one choice ``[D, A]`` from the formulas alone: numpy, loops, no library code."""
    D, A = logits.shape
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    z = np.log(p) + gumbel
    tilde, inner = np.empty((D, A)), np.zeros((D, A))
    b = z.argmax(-1)
    for d in range(D):
        for i in range(A):
            if i == b[d]:
                tilde[d, i] = -np.log(e[d, i])
            else:
                ratio = e[d, i] / p[d, i]
                tilde[d, i] = -np.log(ratio + e[d, b[d]])
                inner[d, i] = ratio / (ratio + e[d, b[d]])  # d tilde_i / d log p_i
    if coupling == "coupled":
        z = tilde

    def slope(x):
        y = np.tanh(B @ x.ravel())
        return (B.T @ (w * (1 - y**2))).reshape(D, A)

    u = np.zeros((D, A))
    for d in range(D):
        for j in range(A):
            u[d, j] = (f - w @ np.tanh(B @ tilde.ravel())) * ((j == b[d]) - p[d, j])
            for i in range(A):
                log_p_slope = (i == j) - p[d, j]  # d log p_i / d l_j
                u[d, j] += slope(z)[d, i] * log_p_slope
                u[d, j] -= slope(tilde)[d, i] * inner[d, i] * log_p_slope
    return u


@any_coupling
@pytest.mark.parametrize("shape", [(1, 4), (3, 3), (2, 5)], ids=str)
def test_one_draw_by_hand(shape, coupling):
    rng = np.random.default_rng(0)
    n = shape[0] * shape[1]
    B, w = rng.normal(size=(6, n)), rng.normal(size=6)
    logits, gumbel = rng.normal(size=(8, *shape)), rng.gumbel(size=(8, *shape))
    e, f = rng.exponential(size=(8, *shape)), rng.normal(size=8)
    estimator = build("relax", *shape, control=Ridge(B, w), coupling=coupling)
    pair = (torch.tensor(gumbel), torch.tensor(e))
    u = estimator.gradient(estimator.sample(torch.tensor(logits), noise_pair=pair), torch.tensor(f))
    for k in range(8):
        by_hand = relax_by_hand(logits[k], gumbel[k], e[k], f[k], B, w, coupling)
        np.testing.assert_allclose(u[k].numpy(), by_hand, rtol=1e-12, atol=1e-12)


MISTAKES = ["attached", "no tilde", "scaled", "detached z"]
MISTAKES += ["another action", "unnormalised", "wrong index"]


@any_coupling
def test_mistakes_of_public_code_are_far_outside_the_bound(coupling):
    # Mistakes 1 to 4: with this c the mean tells each of them from the right estimate.
    n, exact = 200_000, PROBLEMS["bandit"].exact()
    pairs = np.array([[-1.0, 0, 0, 1], [0, -1, 0, 1], [0, 1, -1, 0]])
    control = Ridge(pairs, np.array([3.0, 3.0, -3.0]))
    estimator = build("relax", 1, 4, control=control, coupling=coupling)
    draw = estimator.sample(BANDIT_LOGITS.expand(n, 1, 4), generator=seeded(1))
    value = BANDIT_F(one_hot(draw))
    u = estimator.gradient(draw, value)
    assert z_of_mean(u, exact) < Z_BOUND
    right = relax_oracle(control, draw, value, None, coupling).detach()
    torch.testing.assert_close(u, right, rtol=1e-9, atol=1e-9)
    for mistake in MISTAKES:
        wrong = relax_oracle(control, draw, value, None, coupling, mistake).detach()
        assert z_of_mean(wrong, exact) > 20, mistake


def problem_of_training(coupling, temperature, masked=False):
    """(estimator, draw, value, context) with D = A = 3, 12 rows, everything random, float64."""
    estimator = build(
        "relax",
        3,
        3,
        FEATURES,
        hidden=(8, 4),
        coupling=coupling,
        temperature=temperature,
        scale=2.0,
    ).double()
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


@pytest.mark.parametrize("norm", ["logits", "parameters"])
@any_temperature
@any_coupling
def test_variance_gradient_is_double_backward(coupling, temperature, norm):
    estimator, draw, value, context = problem_of_training(coupling, temperature)
    u = relax_oracle(estimator.control, draw, value, context, coupling)
    if norm == "logits":
        direction, objective = None, u.square().sum((-2, -1)).mean()
    else:  # a linear policy l = W x: its gradient g is the mean of u (x) x, and J v = v x
        x = torch.randn(12, 5, generator=seeded(6), dtype=torch.float64)
        g = torch.einsum("nda,nk->dak", u, x) / 12
        direction, objective = torch.einsum("dak,nk->nda", g.detach(), x), g.square().sum()
    loss = estimator.loss(draw, value, context=context, direction=direction)
    torch.testing.assert_close(loss, objective, rtol=1e-12, atol=0)
    parameters = list(estimator.parameters())
    grads = torch.autograd.grad(loss, parameters)
    for each, other in zip(grads, torch.autograd.grad(objective, parameters), strict=True):
        assert other.norm() > 0.1
        torch.testing.assert_close(each, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("masked", [False, True])
@any_temperature
@any_coupling
def test_variance_gradient_is_a_finite_difference(coupling, temperature, masked):
    estimator, draw, value, context = problem_of_training(coupling, temperature, masked)
    (flat,) = estimator.parameters()
    (grad,) = torch.autograd.grad(estimator.loss(draw, value, context=context), flat)
    step = torch.randn(flat.shape, generator=seeded(5), dtype=torch.float64)

    def objective(h):
        with torch.no_grad():
            flat.add_(h * step)
            u = estimator.gradient(draw, value, context=context)
            flat.sub_(h * step)
        return float(u.square().sum((-2, -1)).mean())

    slope = (objective(1e-5) - objective(-1e-5)) / 2e-5
    assert slope == pytest.approx(float((grad * step).sum()), rel=1e-6)


@any_coupling
def test_untrained_relax_is_reinforce(coupling):
    problem = PROBLEMS["masked-dice"]
    relax, plain = build("relax", 3, 3, coupling=coupling).double(), build("reinforce", 3, 3)
    draw = relax.sample(problem.logits.expand(100, 3, 3), generator=seeded(0))
    value = problem.f(one_hot(draw))
    assert torch.equal(relax.gradient(draw, value), plain.gradient(draw, value))


class Level(nn.Module):
    """c(z) = 1.7, whatever z."""

    def forward(self, z, context):
        return 1.7 + 0 * z.nan_to_num(neginf=0.0).sum((-2, -1))


@any_coupling
def test_relax_with_a_constant_is_the_constant_baseline(coupling):
    problem = PROBLEMS["masked-dice"]
    relax = build("relax", 3, 3, coupling=coupling, control=Level())
    constant = build("constant", 3, 3).double()
    constant.moments.mean.fill_(1.7)
    draw = relax.sample(problem.logits.expand(100, 3, 3), generator=seeded(0))
    value = problem.f(one_hot(draw))
    assert torch.equal(relax.gradient(draw, value), constant.gradient(draw, value))


class Root(nn.Module):
    """A c whose slope is 0 x inf where a category is masked."""

    def forward(self, z, context):
        return z.exp().sqrt().sum((-2, -1))


@any_coupling
def test_the_slope_at_masked_categories_is_never_used(coupling):
    relax = build("relax", 3, 3, coupling=coupling, control=Root())
    draw = relax.sample(PROBLEMS["masked-dice"].logits.expand(20, 3, 3), generator=seeded(0))
    assert relax.gradient(draw, torch.ones(20, dtype=torch.float64)).isfinite().all()


def trained(coupling, noise, steps, batch, rate=0.02):
    """RELAX after Adam on the squared norm at the logits of the bandit."""
    problem, generator = bandit(noise), seeded(1)
    estimator = build("relax", 1, 4, coupling=coupling)
    estimator.control.network.initialise(
        torch.rand(estimator.control.network.flat.shape, generator=generator)
    )
    optimiser = torch.optim.Adam(estimator.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    logits = BANDIT_LOGITS.float().expand(batch, 1, 4)
    f = problem.observed(generator)
    for _ in range(steps):
        draw = estimator.sample(logits, generator=generator)
        optimiser.zero_grad()
        estimator.loss(draw, f(one_hot(draw))).backward()
        optimiser.step()
        schedule.step()
    return estimator.double()


def variance(estimator, problem, draws):
    generator = seeded(2)
    f = problem.observed(generator)
    return measure(estimator, problem.logits, f, draws, generator=generator).variance


@any_coupling
def test_training_reduces_the_variance_below_a_baseline_and_keeps_the_mean(coupling):
    estimator, problem = trained(coupling, 0.0, steps=500, batch=256), bandit()
    assert variance(estimator, problem, 100_000) < 0.72  # the learned baseline's is 0.893
    assert worst_z(estimator, problem, 100_000, seed=3) < Z_BOUND


# Of 600 steps; where training ends depends on c and on its steps.
RECORD = [("independent", 0, 0.679), ("independent", 1, 1.40), ("independent", 5, 18.7)]


@pytest.mark.slow
@pytest.mark.parametrize(("coupling", "noise", "record"), [*RECORD, ("coupled", 0, 0.70)])
def test_trained_variance_is_the_recorded_one(coupling, noise, record):
    estimator = trained(coupling, noise, steps=600, batch=512)
    assert variance(estimator, bandit(noise), 400_000) == pytest.approx(record, rel=0.05)


@any_temperature
def test_default_control_is_its_formula_and_its_tangent(temperature):
    control = make(
        "relax", {"temperature": temperature, "scale": 3.0}, torch.zeros(4, 2, 3)
    ).control
    z, dz = torch.randn(2, 4, 2, 3, generator=seeded(0), dtype=torch.float64)
    context = torch.randn(4, FEATURES, generator=seeded(1), dtype=torch.float64)
    features = (z / temperature).softmax(-1) if temperature else z
    expected = 3.0 * control.network(torch.cat([context, features.flatten(-2)], -1)).squeeze(-1)
    torch.testing.assert_close(control(z, context), expected)
    c, dc = control.tangent(z, dz, context)
    at = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(control(at, context).sum(), at)
    torch.testing.assert_close(c, expected)
    torch.testing.assert_close(dc, (slope * dz).sum((-2, -1)))


def test_control_is_smooth():
    # Mistake 7: behind a ReLU dc/dz is piecewise constant, so nearby slopes are the same bits.
    assert options("relax")["activation"] == "tanh"
    z = torch.randn(20, 1, 3, generator=seeded(0), dtype=torch.float64)
    for activation, smooth in (("tanh", True), ("relu", False)):
        estimator = make("relax", {"temperature": 0.0, "activation": activation}, z)
        slopes = []
        for at in (z, z + 1e-9):
            at = at.clone().requires_grad_()
            c = estimator.control(at, torch.zeros(20, FEATURES, dtype=torch.float64))
            slopes.append(torch.autograd.grad(c.sum(), at)[0])
        assert torch.equal(*slopes) is not smooth


def test_negative_temperature_is_refused():
    with pytest.raises(ValueError, match=r"temperature -1\.0; expected 0"):
        build("relax", temperature=-1.0)
