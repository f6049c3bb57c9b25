"""Statistics over seeds: rliable as the oracle, known distributions, cases worked by hand.

Statistical tests draw from fixed seeds; each bound is Z_BOUND standard errors of a share.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from problems import Z_BOUND

from rlgrad import stats
from rlgrad.stats import Interval, bootstrap_indices, interval

INF = math.inf
NAN = math.nan
AGGREGATES = ["iqm", "median", "mean"]


def scores(runs: int, tasks: int, seed: int) -> np.ndarray:
    """Rounded, so that some are equal."""
    draws = np.random.default_rng(seed).normal(seed, 2.0, (runs, tasks))
    return draws.round(1) * np.arange(1, tasks + 1)


def columns(matrix: np.ndarray) -> list[np.ndarray]:
    return list(matrix.T.copy())


# ---------------------------------------------------------------------------------- rliable


@pytest.fixture(scope="module")
def rliable():
    from rliable import library, metrics

    return library, metrics


def rliable_interval(library, monkeypatch, data, func, indices):
    """rliable's own interval, made to draw the given resamples: `[R, seeds]` per environment."""
    rows = [iter(np.stack(each, -1)) for each in indices]

    def ours(self):
        if len(rows) == 1:
            return (next(rows[0]), *self._strata_indices)
        strata = self._args_strata_indices
        return [(next(i), *s) for i, s in zip(rows, strata, strict=True)], {}

    for name in ("StratifiedBootstrap", "StratifiedIndependentBootstrap"):
        monkeypatch.setattr(getattr(library, name), "update_indices", ours)
    resamples = len(indices[0][0])
    value, bounds = library.get_interval_estimates(
        {"x": data}, lambda *x: np.array([func(*x)]), reps=resamples
    )
    return value["x"].item(), *bounds["x"][:, 0]


@pytest.mark.parametrize(("runs", "tasks"), [(20, 1), (5, 3), (7, 4), (2, 2)])
@pytest.mark.parametrize("name", AGGREGATES)
def test_aggregates_are_those_of_rliable(rliable, monkeypatch, name, runs, tasks):
    library, metrics = rliable
    data = scores(runs, tasks, seed=3)
    indices = bootstrap_indices([runs] * tasks, 200, seed=1)
    expected = rliable_interval(
        library, monkeypatch, data, getattr(metrics, f"aggregate_{name}"), [indices]
    )
    found = interval(getattr(stats, name), columns(data), indices)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert found.low < found.high


@pytest.mark.parametrize(("n", "m", "tasks"), [(20, 20, 1), (5, 7, 3)])
def test_improvement_is_that_of_rliable(rliable, monkeypatch, n, m, tasks):
    library, metrics = rliable
    x, y = scores(n, tasks, seed=4), scores(m, tasks, seed=5)
    first, second = (bootstrap_indices([k] * tasks, 200, seed=k + i) for i, k in enumerate((n, m)))
    expected = rliable_interval(
        library, monkeypatch, [x, y], metrics.probability_of_improvement, [first, second]
    )
    found = stats.improvement(columns(x), columns(y), first, second)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert found.value == stats.probability_of_improvement(columns(x), columns(y))
    assert 0 < found.low < found.high < 1


# -------------------------------------------------------------------------------- aggregates


def test_environments_may_have_different_numbers_of_seeds():
    ragged = [np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0])]
    # Five pooled scores, one cut at either end: 2, 3, 10.
    assert stats.iqm(ragged) == pytest.approx(5.0)
    assert stats.mean(ragged) == pytest.approx((2 + 15) / 2)
    assert stats.median([*ragged, np.array([4.0])]) == pytest.approx(4.0)
    indices = bootstrap_indices([3, 2], 50, seed=0)
    assert [i.shape for i in indices] == [(50, 3), (50, 2)]
    assert all(interval(getattr(stats, name), ragged, indices).low > 0 for name in AGGREGATES)


def test_one_seed_has_an_interval_of_no_width():
    one = [np.array([7.0])]
    indices = bootstrap_indices([1], 100)
    assert interval(stats.iqm, one, indices) == Interval(7.0, 7.0, 7.0)
    assert stats.improvement(one, one, indices, indices) == Interval(0.5, 0.5, 0.5)
    assert stats.median_time(one[0], np.array([True])) == Interval(7.0, 7.0, 7.0)


def test_probability_of_improvement_by_hand():
    x, y = [np.array([1.0, 2.0, 3.0])], [np.array([2.0, 0.0])]
    # Of 6 pairs: 1>0, 2>0, 3>0, 3>2 and one tie.
    assert stats.probability_of_improvement(x, y) == pytest.approx(4.5 / 6)
    assert stats.probability_of_improvement(y, x) == pytest.approx(1.5 / 6)


def test_resamples_depend_on_their_seed_only():
    first, again, other = (bootstrap_indices([9, 9], 40, seed=s)[1] for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert set(np.unique(first)) == set(range(9))


def test_normalised_scores():
    np.testing.assert_allclose(stats.normalised(np.array([-500.0, -100.0]), -500.0, -100.0), [0, 1])
    assert stats.normalised(22.0, 22.0, 475.0) == 0
    with pytest.raises(ValueError, match="equal"):
        stats.normalised(1.0, 2.0, 2.0)


# ---------------------------------------------------------------------------------- coverage

TRIALS = 1_000


def share(hits: int, expected: float) -> None:
    """Of 1,000 trials; beyond Z_BOUND standard errors lies less than one run in 1e9."""
    assert abs(hits / TRIALS - expected) < Z_BOUND * (expected * (1 - expected) / TRIALS) ** 0.5


def test_the_mean_is_covered_as_theory_says():
    # The resampled mean has variance s^2 (n - 1) / n^2, so the percentile interval holds the
    # mean of normal scores as often as |t| with 19 degrees of freedom is below 1.960 (19/20)^.5.
    generator = np.random.default_rng(0)
    indices = bootstrap_indices([20], 1_000, seed=9)
    found = [interval(stats.mean, [generator.normal(3.0, 1.0, 20)], indices) for _ in range(TRIALS)]
    share(sum(i.low <= 3.0 <= i.high for i in found), 0.929)


def test_iqm_and_improvement_are_covered():
    # Two environments of 30 seeds: nominal 95 %, of which a percentile interval loses some 2 %.
    generator = np.random.default_rng(1)
    first, second = (bootstrap_indices([30, 30], 500, seed=s) for s in (1, 2))
    truth = 0.5 * (1 + math.erf(0.5))  # P(X > Y) for unit normals whose means differ by 1
    hits = {"iqm": 0, "improvement": 0}
    for _ in range(TRIALS):
        x, y = generator.normal(1.0, 1.0, (2, 30)), generator.normal(0.0, 1.0, (2, 30))
        found = interval(stats.iqm, list(x), first)
        hits["iqm"] += found.low <= 1.0 <= found.high
        better = stats.improvement(list(x), list(y), first, second)
        hits["improvement"] += better.low <= truth <= better.high
    for count in hits.values():
        share(count, 0.935)


def test_the_median_time_is_covered_under_censoring():
    # Exponential times, censored at an exponential time of twice the mean.
    generator = np.random.default_rng(2)
    hits = 0
    for _ in range(TRIALS):
        times, ends = generator.exponential(1.0, 30), generator.exponential(2.0, 30)
        found = stats.median_time(np.minimum(times, ends), times <= ends, resamples=300)
        hits += found.low <= math.log(2) <= found.high
    share(hits, 0.945)


# ----------------------------------------------------------------------------- Kaplan-Meier


def test_kaplan_meier_by_hand():
    # At 1: 1 of 6 solved; at 2: 1 of 5 solved and one stopped; at 4: 1 of 3; at 5 one stopped;
    # at 6 the last one is solved.
    times = np.array([2.0, 1.0, 2.0, 6.0, 5.0, 4.0])
    observed = np.array([True, True, False, True, False, True])
    at, left = stats.kaplan_meier(times, observed)
    np.testing.assert_array_equal(at, [0, 1, 2, 4, 5, 6])
    np.testing.assert_allclose(left, [1, 5 / 6, 4 / 6, 4 / 9, 4 / 9, 0], atol=1e-15)
    found = stats.median_time(times, observed)
    assert found.value == 4.0
    assert found.low in times
    assert found.low <= 4.0 <= found.high


def test_without_censoring_it_is_the_share_that_is_left():
    times = np.array([3.0, 1.0, 2.0, 2.0])
    at, left = stats.kaplan_meier(times, np.ones(4, bool))
    np.testing.assert_array_equal(at, [0, 1, 2, 3])
    np.testing.assert_allclose(left, [1, 0.75, 0.25, 0], atol=1e-15)
    assert stats.median_time(np.arange(1.0, 21.0), np.ones(20, bool)).value == 10.0


@pytest.mark.parametrize("solved", [0, 6])
def test_a_median_that_is_not_reached_is_infinite(solved):
    observed = np.arange(20) < solved
    found = stats.median_time(np.where(observed, np.arange(20.0), 100.0), observed)
    assert found.value == INF
    assert found.high == INF
    assert 0 <= found.low <= INF


def test_a_bound_alone_may_be_infinite():
    observed = np.arange(20) < 12
    found = stats.median_time(np.where(observed, np.arange(20.0), 100.0), observed)
    assert found.value == 9.0
    assert found.high == INF


# --------------------------------------------------------------------------- learning curves


def test_curves_meet_on_a_grid_without_extrapolation():
    xs = [np.array([1.0, 3.0]), np.array([0.0, 2.0])]
    ys = [np.array([0.0, 4.0]), np.array([10.0, 10.0])]
    grid = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    found = stats.curve(xs, ys, grid)
    np.testing.assert_array_equal(found.seeds, [1, 2, 2, 1, 0])
    np.testing.assert_allclose(found.value, [10, 5, 6, 4, NAN])
    held = stats.curve(xs, ys, grid, done=[False, True])
    np.testing.assert_array_equal(held.seeds, [1, 2, 2, 2, 1])
    np.testing.assert_allclose(held.value, [10, 5, 6, 7, 10])
    assert np.isnan(found.low[-1])
    assert np.isnan(found.high[-1])


def test_a_point_of_a_curve_is_the_interval_of_its_scores():
    generator = np.random.default_rng(3)
    grid = np.array([0.0, 1.0, 2.0])
    ys = list(generator.normal(size=(13, 3)))
    found = stats.curve([grid] * 13, ys, grid, resamples=400, seed=5)
    indices = bootstrap_indices([13], 400, seed=5)
    for at in range(3):
        expected = interval(stats.iqm, [np.array([y[at] for y in ys])], indices)
        point = (found.value[at], found.low[at], found.high[at])
        assert point == pytest.approx(tuple(expected), rel=1e-12)
