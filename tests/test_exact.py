"""The oracle against other ways to the same number."""

from __future__ import annotations

import math

import pytest
import torch
from problems import (
    BANDIT_LOGITS,
    INF,
    PROBLEMS,
    Problem,
    bernoulli_toy,
    double,
    seeded,
    table,
    waves,
)

from rlgrad.estimators import build, exact, exact_gradient


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS.keys())
def test_exact_is_autograd_through_the_sum(problem):
    mean, gradient = exact_gradient(problem.logits, problem.f)
    torch.testing.assert_close(gradient, problem.exact(), rtol=1e-13, atol=1e-13)
    assert not gradient.isnan().any()
    assert mean.shape == ()


def test_exact_is_the_hand_enumeration_of_the_bandit():
    # p = exp(l) / sum, E[f] = sum p f, d E[f] / d l_a = p_a (f_a - E[f]); plain Python floats.
    f, weights = [1, 3, 2, 5], [math.exp(x) for x in (0.5, 0.0, -0.5, 0.3)]
    p = [w / sum(weights) for w in weights]
    expected = sum(a * b for a, b in zip(p, f, strict=True))
    mean, gradient = exact_gradient(BANDIT_LOGITS, table(double(f)))
    assert float(mean) == pytest.approx(expected, rel=1e-14)
    by_hand = [a * (b - expected) for a, b in zip(p, f, strict=True)]
    assert gradient[0].tolist() == pytest.approx(by_hand, rel=1e-13)


@pytest.mark.parametrize("logit", [-3.0, 0.0, 1.0, 2.0])
def test_exact_is_the_closed_form_of_the_toy(logit):
    # E[(b - t)^2] = p (1 - t)^2 + (1 - p) t^2, so d / d logit = p (1 - p) (1 - 2 t), t = 0.499.
    problem = bernoulli_toy(logit)
    mean, gradient = exact_gradient(problem.logits, problem.f)
    p = 1 / (1 + math.exp(-logit))
    assert float(mean) == pytest.approx(p * 0.501**2 + (1 - p) * 0.499**2, rel=1e-13)
    by_hand = p * (1 - p) * 0.002
    assert gradient[0].tolist() == pytest.approx([-by_hand, by_hand], rel=1e-10)


def test_exact_is_a_finite_difference_of_the_mean():
    problem = PROBLEMS["dice"]
    _, gradient = exact_gradient(problem.logits, problem.f)
    direction = torch.randn(3, 3, generator=seeded(0), dtype=torch.float64)
    up, down = (exact_gradient(problem.logits + h * direction, problem.f)[0] for h in (1e-5, -1e-5))
    slope = float(up - down) / 2e-5
    assert slope == pytest.approx(float((gradient * direction).sum()), rel=1e-8)


def test_batches_are_enumerated_row_by_row():
    logits = torch.randn(2, 5, 3, 2, generator=seeded(1), dtype=torch.float64)
    f = table(waves(2, 2, 2))
    mean, gradient = exact_gradient(logits, f)
    assert mean.shape == (2, 5)
    for i in range(2):
        for j in range(5):
            alone = exact_gradient(logits[i, j], f)
            torch.testing.assert_close(mean[i, j], alone[0], rtol=1e-13, atol=1e-13)
            torch.testing.assert_close(gradient[i, j], alone[1], rtol=1e-13, atol=1e-13)


def test_masked_categories_are_as_if_absent():
    three = Problem(double([[0.5, 0.0, 0.3]]), table(double([1, 3, 5])))
    mean, gradient = exact_gradient(three.logits, three.f)
    # f is not even defined at the masked category: its value there must not matter.
    masked = double([[0.5, 0.0, -INF, 0.3]])
    values = double([1, 3, float("nan"), 5])
    other_mean, other = exact_gradient(masked, lambda x: values[x.argmax(-1).squeeze(-1)])
    torch.testing.assert_close(mean, other_mean, rtol=1e-14, atol=0)
    torch.testing.assert_close(gradient, other[:, [0, 1, 3]], rtol=1e-13, atol=0)
    assert float(other[0, 2]) == 0.0


def test_exact_has_no_variance_and_needs_f():
    problem = PROBLEMS["coins"]
    estimator = build("exact", 3, 2)
    draw = estimator.sample(problem.logits.expand(9, 3, 2), generator=seeded(0))
    u = estimator.gradient(draw, torch.zeros(9, dtype=torch.float64), f=problem.f)
    assert torch.equal(u, u[:1].expand_as(u))
    with pytest.raises(ValueError, match=r"exact got no f; .* use reinforce"):
        estimator.gradient(draw, torch.zeros(9, dtype=torch.float64))


def test_too_many_choices_are_refused_before_any_work():
    def never(x):
        raise AssertionError("f was called")

    with pytest.raises(ValueError, match=r"17 factors of 2 categories.*at most 65,536.*sampling"):
        exact_gradient(torch.zeros(17, 2), never)
    mean, _ = exact_gradient(torch.zeros(2, 4), lambda x: torch.ones(x.shape[:-2]))
    assert float(mean) == pytest.approx(1.0)


def test_as_many_choices_as_are_allowed_are_enumerated(monkeypatch):
    monkeypatch.setattr(exact, "MOST_CHOICES", 8)
    mean, _ = exact_gradient(torch.zeros(3, 2), lambda x: torch.ones(x.shape[:-2]))
    assert float(mean) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="at most 8"):
        exact_gradient(torch.zeros(4, 2), lambda x: torch.ones(x.shape[:-2]))


def test_a_factor_of_one_category_is_no_choice():
    mean, gradient = exact_gradient(torch.zeros(2, 1), lambda x: 3 * torch.ones(x.shape[:-2]))
    assert float(mean) == 3.0
    assert not gradient.any()
