"""The biased estimators: values by hand, and their bias where theory gives it.

With two categories a relaxed choice depends on one logistic number, so that means and variances
are integrals over (0, 1): quantiles at equal steps give them without luck.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from problems import (
    INF,
    MEMBERS,
    PROBLEMS,
    SMOOTH,
    Z_BOUND,
    Problem,
    double,
    enumerated,
    every_choice,
    make,
    seeded,
    values_at,
    waves,
)
from torch import nn

from rlgrad.estimators import ESTIMATORS, Draw, build, estimate, measure, noise, one_hot

RELAXED = ("gumbel-softmax", "straight-through", "gumbel-rao", "reinmax")
# f is called at relaxed choices of one factor of two categories; x is the weight of the second.
FUNCTIONS = {
    "linear": lambda x: 2 * x[..., 0, 1] - x[..., 0, 0],
    "quadratic": lambda x: (x[..., 0, 1] - 0.3) ** 2 - x[..., 0, 0] * x[..., 0, 1],
    "cubic": lambda x: x[..., 0, 1] ** 3,
    "wave": lambda x: (3 * x[..., 0, 1]).sin(),
}
COIN = double([[0.4, -0.3]])


def coin(name):
    return Problem(COIN, FUNCTIONS[name])


# ----------------------------------------------------------------------------------- by hand

THIRDS = math.log(3)
# p = (1/4, 3/4), f = x_2^3, and at temperature 1/2 softmax(z / tau) = (1/4, 3/4) too:
# J = 3/16 (1, -1; -1, 1), f' = (0, 27/16) there and (0, 3) at e_2, (0, 0) at e_1.
FRACTIONS = {
    "gumbel-softmax": 3 / 16 * 27 / 16 * 2,
    "straight-through": 3 / 16 * 3 * 2,
    # q = (1/8, 7/8): 2 x 7/64 x 3 - 3/16 x 3 / 2
    "reinmax": 3 / 8,
}


@pytest.mark.parametrize("name", FRACTIONS)
def test_one_draw_in_fractions(name):
    logits = double([[[5.0, 5.0 + THIRDS]]])
    gumbel = double([[[0.0, -THIRDS / 2]]])
    temperature = 1.0 if name == "reinmax" else 0.5
    draw = Draw(logits, gumbel, torch.ones_like(gumbel), torch.tensor([[1]]))
    u = build(name, temperature=temperature).gradient(draw, double([1.0]), f=FUNCTIONS["cubic"])
    expected = FRACTIONS[name]
    torch.testing.assert_close(u, double([[[-expected, expected]]]), rtol=1e-13, atol=0)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def derivative(x, w, v):
    """Of f(x) = sum_k v_k sin(w_k . x), in numpy."""
    return sum(v[k] * math.cos((w[k] * x).sum()) * w[k] for k in range(len(v)))


def pulled(q, at, temperature=1.0):
    """(diag q - q q^T) at / temperature, factor by factor."""
    D, A = q.shape
    u = np.zeros((D, A))
    for d in range(D):
        for j in range(A):
            for i in range(A):
                u[d, j] += ((i == j) * q[d, i] - q[d, i] * q[d, j]) * at[d, i] / temperature
    return u


def given_action(logits, b, second):
    """z of one choice given its action: truncated Gumbels at their quantiles, in numpy."""
    D, A = logits.shape
    p = softmax(logits)
    z = np.empty((D, A))
    for d in range(D):
        for i in range(A):
            own = i == b[d]
            z[d, i] = -math.log(second[d, b[d]] + (0 if own else second[d, i] / p[d, i]))
    return z


def by_hand(name, logits, gumbel, second, f_slope, tau):
    """u of one choice ``[D, A]`` from the formulas."""
    hot = np.eye(logits.shape[1])[(logits + gumbel).argmax(-1)]
    y = softmax((logits + gumbel) / tau)
    if name == "gumbel-softmax":
        return pulled(y, f_slope(y), tau)
    at = f_slope(hot)
    if name == "straight-through":
        return pulled(y, at, tau)
    if name == "reinmax":
        q = (hot + softmax(logits / tau)) / 2
        return 2 * pulled(q, at) - pulled(softmax(logits), at) / 2
    b = hot.argmax(-1)
    each = [pulled(softmax(given_action(logits, b, e) / tau), at, tau) for e in second]
    return sum(each) / len(each)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
@pytest.mark.parametrize("shape", [(1, 2), (1, 4), (3, 3)], ids=str)
@pytest.mark.parametrize("name", RELAXED)
def test_draws_by_hand(name, shape, temperature):
    rng = np.random.default_rng(0)
    logits, gumbel = rng.normal(size=(6, *shape)), rng.gumbel(size=(6, *shape))
    second = rng.exponential(size=(4, 6, *shape))
    w, v = rng.normal(size=(3, *shape)), rng.normal(size=3)
    more = {"draws": 4} if name == "gumbel-rao" else {}
    estimator = build(name, *shape, temperature=temperature, **more)
    pair = torch.tensor(gumbel), torch.tensor(second if more else second[0])
    draw = estimator.sample(torch.tensor(logits), noise_pair=pair)

    def f(x):
        return torch.einsum("...da,kda->...k", x, torch.tensor(w)).sin() @ torch.tensor(v)

    u = estimator.gradient(draw, torch.zeros(6), f=f)  # the value has no say
    for k in range(6):
        expected = by_hand(
            name, logits[k], gumbel[k], second[:, k], lambda x: derivative(x, w, v), temperature
        )
        np.testing.assert_allclose(u[k].numpy(), expected, rtol=1e-12, atol=1e-12)


# ------------------------------------------------------------------------------ bias of a coin


def quantiles(n=200_000):
    """The coin's logistic noise at n equal steps of probability, as one draw ``[n, 1, 2]``."""
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    gumbel = torch.stack([torch.zeros_like(u), u.log() - (-u).log1p()], -1).unsqueeze(-2)
    logits = COIN.expand(n, 1, 2)
    return Draw(logits, gumbel, torch.ones_like(gumbel), (logits + gumbel).argmax(-1))


def integrated(name, f, temperature, n=200_000):
    """(mean ``[1, 2]``, total variance) of the estimate, without luck."""
    draw = quantiles(n)
    u = build(name, temperature=temperature).gradient(draw, f(one_hot(draw)), f=f)
    return u.mean(0), float(u.var(0).sum())


def trapezoid(problem):
    """The gradient with f(e_j) - f(e_i) by the trapezoidal rule from f' at the two ends."""
    draw, p = every_choice(problem.logits)
    hot, u = one_hot(draw), torch.zeros_like(problem.logits)
    factors, categories = problem.logits.shape

    def slope(x):
        x = x.clone().requires_grad_()
        return torch.autograd.grad(problem.f(x).sum(), x)[0]

    for d in range(factors):
        for j in range(categories):
            other = hot.clone()
            other[:, d] = torch.eye(categories)[j]
            step = other - hot
            difference = ((slope(hot) + slope(other)) / 2 * step).sum((-2, -1))
            u[d, j] = (p * difference).sum() * problem.logits[d].softmax(-1)[j]
    return u


def bias(name, function, temperature):
    problem = coin(function)
    mean, _ = integrated(name, problem.f, temperature)
    return float((mean - problem.exact()).norm())


@pytest.mark.parametrize("function", FUNCTIONS)
def test_bias_of_gumbel_softmax_vanishes_as_the_temperature_falls(function):
    # The chance of a relaxed choice far from all corners is proportional to the temperature, and
    # only there f(softmax z) differs from f(b): the bias falls at least as fast.
    at = {tau: bias("gumbel-softmax", function, tau) for tau in (0.4, 0.2, 0.1, 0.05, 0.025)}
    assert at[0.4] > 0.05
    assert all(each < 0.4 * tau for tau, each in at.items())
    assert all(at[tau / 2] < 0.57 * at[tau] for tau in (0.2, 0.1, 0.05))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_straight_through_becomes_the_trapezoidal_rule(function):
    problem = coin(function)
    limit, gap = trapezoid(problem), {}
    for temperature in (0.2, 0.1, 0.05, 0.025):
        mean, _ = integrated("straight-through", problem.f, temperature)
        gap[temperature] = float((mean - limit).norm())
    assert gap[0.2] > 0.01
    assert all(gap[tau / 2] < 0.57 * gap[tau] for tau in (0.2, 0.1, 0.05))
    # Which is the gradient where f is at most quadratic, and not where it is not.
    remains = float((limit - problem.exact()).norm())
    assert remains < 1e-14 if function in ("linear", "quadratic") else remains > 0.03


@pytest.mark.parametrize("name", ["gumbel-softmax", "straight-through"])
def test_variance_grows_as_the_temperature_falls(name):
    warm, cold = (integrated(name, FUNCTIONS["cubic"], tau)[1] for tau in (0.1, 0.05))
    assert 1.9 < cold / warm < 2.2


# |bias| / |gradient| of the coin at temperature 0.5 (reinmax: 1), by adaptive quadrature of the
# formulas elsewhere; the equal steps above agree to a few 1e-4.
RECORD = {
    "gumbel-softmax": {"linear": 0.1088, "quadratic": 0.6300, "cubic": 0.2950, "wave": 2.6029},
    "straight-through": {"linear": 0.1088, "quadratic": 0.9103, "cubic": 0.0963, "wave": 2.4855},
    "reinmax": {"linear": 0.0, "quadratic": 0.0, "cubic": 0.5, "wave": 0.8936},
}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("name", RECORD)
def test_bias_of_a_coin_is_the_recorded_one(name, function):
    temperature = 1.0 if name == "reinmax" else 0.5
    relative = bias(name, function, temperature) / float(coin(function).exact().norm())
    assert relative == pytest.approx(RECORD[name][function], abs=1e-3)


def test_bias_on_the_bandit_is_measured_and_vanishes():
    # |z| of the bias in 200,000 draws: plain at 0.5, lost in the noise at 0.02.
    problem = PROBLEMS["bandit"]
    for name in ("gumbel-softmax", "straight-through", "gumbel-rao"):
        worst = {}
        for temperature in (0.5, 0.02):
            estimator = build(name, 1, 4, temperature=temperature)
            found = measure(estimator, problem.logits, problem.f, 200_000, generator=seeded(1))
            worst[temperature] = found.z_scores(problem.exact()).abs().max()
        assert worst[0.5] > 20
        assert worst[0.02] < Z_BOUND


# ------------------------------------------------------------------------------------ reinmax


@pytest.mark.parametrize("name", [*PROBLEMS, *SMOOTH])
def test_mean_of_reinmax_is_the_trapezoidal_rule(name):
    problem = (PROBLEMS | SMOOTH)[name]
    mean, _ = enumerated(build("reinmax"), problem)
    torch.testing.assert_close(mean, trapezoid(problem), rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", [*PROBLEMS, "toy"])
def test_reinmax_is_exact_where_f_is_quadratic_in_each_factor(name):
    problem = {**PROBLEMS, **SMOOTH}[name]
    mean, _ = enumerated(build("reinmax"), problem)
    torch.testing.assert_close(mean, problem.exact(), rtol=0, atol=1e-13)


def test_reinmax_is_biased_elsewhere():
    network = SMOOTH["network"]
    assert (enumerated(build("reinmax"), network)[0] - network.exact()).norm() > 0.1
    warm = build("reinmax", temperature=1.5)
    bandit = PROBLEMS["bandit"]
    assert (enumerated(warm, bandit)[0] - bandit.exact()).norm() > 0.01


# --------------------------------------------------------------------------------- gumbel-rao


def given_choice(f, temperature):
    """Mean ``[2, 1, 2]`` of straight-through given each choice of the coin, and their p ``[2]``."""
    draw = quantiles()
    u = build("straight-through", temperature=temperature).gradient(draw, f(one_hot(draw)), f=f)
    chosen = [draw.action[:, 0] == b for b in range(2)]
    share = torch.stack([each.double().mean() for each in chosen])
    return torch.stack([u[each].mean(0) for each in chosen]), share


@pytest.mark.parametrize("function", ["linear", "wave"])
def test_gumbel_rao_tends_to_the_mean_given_the_choice(function):
    f, draws = FUNCTIONS[function], 50_000
    limit, _ = given_choice(f, 0.3)
    logits = COIN.expand(2, 1, 2)
    second = torch.empty(draws, 2, 1, 2, dtype=torch.float64).exponential_(generator=seeded(1))
    draw = Draw(logits, torch.zeros(2, 1, 2), second, torch.tensor([[0], [1]]))
    u = build("gumbel-rao", temperature=0.3, draws=draws).gradient(draw, torch.zeros(2), f=f)
    alone = build("gumbel-rao", temperature=0.3, draws=1)
    each = [
        alone.gradient(draw._replace(second=part), torch.zeros(2), f=f) for part in second[:2000]
    ]
    error = torch.stack(each).std(0) / draws**0.5 + 1e-9
    assert ((u - limit).abs() / error).max() < Z_BOUND


@pytest.mark.parametrize("draws", [1, 2, 10])
def test_variance_of_gumbel_rao_is_that_of_straight_through_with_its_noise_averaged(draws):
    # V(K) = Var[E[u | b]] + E[Var[u | b]] / K, where K = 1 is straight-through.
    f, tau = FUNCTIONS["wave"], 0.3
    by_choice, share = given_choice(f, tau)
    mean, whole = integrated("straight-through", f, tau)
    floor = float((share[:, None, None] * (by_choice - mean) ** 2).sum())
    assert floor < 0.5 * whole
    estimator = build("gumbel-rao", temperature=tau, draws=draws)
    found = measure(estimator, COIN, f, 200_000, generator=seeded(draws))
    assert ((found.mean - mean) / found.standard_error).abs().max() < Z_BOUND
    assert found.variance == pytest.approx(floor + (whole - floor) / draws, rel=0.05)


@pytest.mark.parametrize("name", ["masked-dice", "network"])
def test_gumbel_rao_has_the_mean_of_straight_through_and_less_variance(name):
    problem = {**PROBLEMS, **SMOOTH}[name]
    shape = problem.logits.shape
    rao, plain = (
        measure(
            build(kind, *shape, temperature=0.5, **more),
            problem.logits,
            problem.f,
            100_000,
            generator=seeded(1),
        )
        for kind, more in (("gumbel-rao", {"draws": 10}), ("straight-through", {}))
    )
    error = (rao.standard_error**2 + plain.standard_error**2).sqrt() + 1e-12
    assert ((rao.mean - plain.mean).abs() / error).max() < Z_BOUND
    assert rao.variance < 0.8 * plain.variance


def test_relaxed_choices_of_a_draw_all_have_its_action():
    logits = PROBLEMS["masked-dice"].logits.expand(50, 3, 3)
    draw = build("gumbel-rao", 3, 3, draws=7).sample(logits, generator=seeded(1))
    assert draw.second.shape == (7, 50, 3, 3)
    z = noise.relaxed_given_action(draw.logits, draw.action, draw.second)
    assert torch.equal(z.argmax(-1), draw.action.expand(7, 50, 3))
    assert build("gumbel-rao", 3, 3, draws=1).sample(logits).second.shape == logits.shape


# -------------------------------------------------------------------- what all of them ask of f

NEEDY = [each for each in MEMBERS if ESTIMATORS[each.values[0]].traits.differentiable]
needy = pytest.mark.parametrize(("name", "chosen"), NEEDY)


class Lookup(nn.Module):
    """Differentiable in its own parameters, and not in the choice."""

    def __init__(self):
        super().__init__()
        self.values = nn.Embedding(3, 1)

    def forward(self, x):
        return self.values(x.argmax(-1)).sum((-2, -1))


@needy
def test_an_f_that_does_not_serve_is_refused(name, chosen):
    estimator = build(name, 2, 3, **chosen)
    draw = estimator.sample(torch.zeros(5, 2, 3), generator=seeded(1))
    with pytest.raises(ValueError, match=f"{name} got no f; .* or use relax where"):
        estimator.gradient(draw, torch.ones(5))
    for f in (lambda x: x.argmax(-1).sum(-1).float(), Lookup()):
        with pytest.raises(ValueError, match=f"{name} differentiates f .* use relax"):
            estimator.gradient(draw, torch.ones(5), f=f)


@needy
def test_f_sees_masked_categories_as_zeros_and_relaxed_choices_sum_to_one(name, chosen):
    logits = torch.randn(40, 2, 3, generator=seeded(1), dtype=torch.float64)
    logits[:20, 1, 2] = -INF
    estimator, calls = make(name, chosen, logits), []

    def f(x):
        calls.append(x)
        assert (x[:20, 1, 2] == 0).all()
        assert (x >= 0).all()
        torch.testing.assert_close(x.detach().sum(-1), torch.ones_like(x[..., 0]).detach())
        return (x * waves(2, 3)).sum((-2, -1)).tanh()

    draw = estimator.sample(logits, generator=seeded(2))
    value = values_at(estimator, draw, f)
    estimator.gradient(draw, value, f=f)
    if estimator.traits.trained:
        estimator.loss(draw, value, f=f)
    assert len(calls) > 1


@pytest.mark.parametrize("name", ["muprop", "gumbel-softmax", "rebar"])
def test_a_derivative_that_is_infinite_at_masked_categories_does_not_matter(name):
    logits = PROBLEMS["masked-dice"].logits.expand(40, 3, 3)
    estimator = build(name, 3, 3)
    draw = estimator.sample(logits, generator=seeded(1))
    value = torch.ones(40, dtype=torch.float64)
    u = estimator.gradient(draw, value, f=lambda x: x.sqrt().sum((-2, -1)))
    assert u.isfinite().all()
    assert not u[logits.isneginf()].any()


@needy
def test_parameters_of_f_get_no_gradient(name, chosen):
    f = nn.Sequential(nn.Flatten(-2), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1), nn.Flatten(0))
    f.double()
    logits = torch.randn(40, 2, 3, generator=seeded(1), dtype=torch.float64)
    estimator = make(name, chosen, logits)
    draw = estimator.sample(logits, generator=seeded(2))
    value = f(one_hot(draw))
    u = estimator.gradient(draw, value, f=f)
    assert not u.requires_grad
    loss = estimator.loss(draw, value, f=f)
    if loss is not None:
        loss.backward()
    assert all(parameter.grad is None for parameter in f.parameters())


@needy
def test_a_shift_of_the_logits_changes_nothing(name, chosen):
    logits = torch.randn(40, 2, 3, generator=seeded(1), dtype=torch.float64)
    estimator = make(name, chosen, logits)
    f = SMOOTH["network"].f
    at, moved = (estimator.sample(each, generator=seeded(2)) for each in (logits, logits + 3.0))
    value = f(one_hot(at))
    torch.testing.assert_close(
        estimator.gradient(moved, value, f=f), estimator.gradient(at, value, f=f)
    )


@needy
def test_estimate_returns_f_at_the_discrete_choice(name, chosen):
    logits = torch.randn(40, 2, 3, generator=seeded(1), dtype=torch.float64)
    estimator = make(name, chosen, logits)
    f = SMOOTH["network"].f
    result = estimate(estimator, logits, f, generator=seeded(2))
    draw = estimator.sample(logits, generator=seeded(2))
    assert torch.equal(result, f(one_hot(draw)))


@pytest.mark.parametrize("temperature", [0.0, -1.0])
@pytest.mark.parametrize("name", [*RELAXED, "rebar"])
def test_temperatures_that_do_not_serve_are_refused(name, temperature):
    with pytest.raises(ValueError, match=f"got temperature {temperature}; expected above 0"):
        build(name, temperature=temperature)


def test_draws_below_one_are_refused():
    with pytest.raises(ValueError, match="got draws 0; expected at least 1"):
        build("gumbel-rao", draws=0)
