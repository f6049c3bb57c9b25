"""Statistics over training seeds: aggregates with bootstrap intervals, and times with censoring.

Scores are a list with one array per environment, one score per seed in it; see ``bootstrap``.

Source: Agarwal, Schwarzer, Castro, Courville, Bellemare, Deep Reinforcement Learning at the Edge
of the Statistical Precipice, 2021, arXiv 2108.13264; Kaplan, Meier, Nonparametric Estimation from
Incomplete Observations, 1958.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlgrad.bootstrap import (
    RESAMPLES,
    Floats,
    Integers,
    Interval,
    Scores,
    bootstrap_indices,
    bounds,
    counted,
    interval,
    weights,
)

__all__ = [
    "Curve", "Interval", "bootstrap_indices", "curve", "improvement", "interval", "iqm",
    "kaplan_meier", "mean", "median", "median_time", "normalised", "probability_of_improvement",
]  # fmt: skip

Booleans = NDArray[np.bool_]

RESAMPLES_OF_CURVES = 2_000
_TRIMMED = 0.25  # of the scores, at either end
_HALF = 0.5 + 1e-12  # a product of shares may miss one half by rounding


class Curve(NamedTuple):
    """A learning curve over seeds, with a pointwise band.

    Attributes:
        x: `[G]` grid.
        value: `[G]` interquartile mean over the seeds there; NaN where there is none.
        low: `[G]` lower bound.
        high: `[G]` upper bound.
        seeds: `[G]` number of seeds that the point stands on.
    """

    x: Floats
    value: Floats
    low: Floats
    high: Floats
    seeds: Integers


def iqm(scores: Scores) -> Floats:
    """Interquartile mean: of all scores pooled, without the lowest and highest quarter.

    A quarter that is no whole number of scores is rounded down. An environment weighs as many
    seeds as it has.

    Args:
        scores: per environment `[..., seeds]`.

    Returns:
        `[...]`.
    """
    pool = np.concatenate(scores, -1)
    cut = int(_TRIMMED * pool.shape[-1])
    kept = np.partition(pool, (cut, pool.shape[-1] - cut - 1), axis=-1)
    return np.asarray(kept[..., cut : pool.shape[-1] - cut].mean(-1))


def _means(scores: Scores) -> Floats:
    return np.stack([each.mean(-1) for each in scores], -1)


def mean(scores: Scores) -> Floats:
    """Mean over environments of each one's mean; as ``iqm`` in its shapes."""
    return np.asarray(_means(scores).mean(-1))


def median(scores: Scores) -> Floats:
    """Median over environments of each one's mean (rliable's definition): with one, the mean."""
    return np.asarray(np.median(_means(scores), -1))


def normalised(score: Floats | float, low: float, high: float) -> Floats | float:
    """Score on a scale where ``low`` is 0 (chance, say) and ``high`` is 1 (solved, say)."""
    if low == high:
        raise ValueError(f"the ends of the scale are equal: {low}")
    return (score - low) / (high - low)


def _wins(x: Floats, y: Floats) -> Floats:
    """`[n, m]`: 1 where x is above y, one half where they are equal."""
    above = np.subtract.outer(x, y)
    return (np.sign(above) + 1) / 2


def probability_of_improvement(x: Scores, y: Scores) -> float:
    """Chance that a run of X beats one of Y, mean over environments; ties count half.

    In each environment this is the Mann-Whitney statistic over the number of pairs.

    Args:
        x: per environment `[n]`.
        y: per environment `[m]`.
    """
    return float(np.mean([_wins(a, b).mean() for a, b in zip(x, y, strict=True)]))


def improvement(
    x: Scores,
    y: Scores,
    indices_x: Sequence[Integers],
    indices_y: Sequence[Integers],
    level: float = 0.95,
) -> Interval:
    """``probability_of_improvement`` with its percentile interval.

    Args:
        x: per environment `[n]`.
        y: per environment `[m]`.
        indices_x: of ``bootstrap_indices`` for X.
        indices_y: for Y, drawn from another seed: both are resampled independently.
        level: of confidence.
    """
    samples = [
        ((weights(i) / len(a)) @ _wins(a, b) * (weights(j) / len(b))).sum(-1)
        for a, b, i, j in zip(x, y, indices_x, indices_y, strict=True)
    ]
    return Interval(probability_of_improvement(x, y), *bounds(np.mean(samples, 0), level))


def kaplan_meier(times: Floats, observed: Booleans) -> tuple[Floats, Floats]:
    """Share of seeds not yet solved, where some stopped unsolved (the Kaplan-Meier estimate).

    A seed censored at a time was still at risk when others were solved at that time.

    Args:
        times: `[seeds]` at which a seed was solved, or else stopped.
        observed: `[seeds]` whether it was solved.

    Returns:
        Times (0, then each distinct one) and the share from each on, until the next.
    """
    at, group = np.unique(times, return_inverse=True)
    solved = np.bincount(group, weights=observed, minlength=len(at))
    left = np.bincount(group, minlength=len(at))
    risk = left[::-1].cumsum()[::-1]
    share = np.cumprod(1 - solved / risk)
    return np.concatenate([[0.0], at]), np.concatenate([[1.0], share])


def median_time(
    times: Floats,
    observed: Booleans,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Least time by which half of the seeds are solved, by Kaplan-Meier; inf where never.

    The bounds are order statistics of a bootstrap over seeds, the outer ones, so a bound is
    either a time that occurred or inf.

    Args:
        times: `[seeds]` at which a seed was solved, or else stopped.
        observed: `[seeds]` whether it was solved.
        resamples: of the bootstrap.
        seed: of its draws.
        level: of confidence.
    """
    order = np.lexsort((~observed, times))
    times, observed = times[order], observed[order]
    counts = counted(len(times), resamples, seed)
    risk = counts[:, ::-1].cumsum(-1)[:, ::-1]
    share = np.cumprod(1 - observed * counts / np.maximum(risk, 1), -1)
    reached = share <= _HALF
    found = np.where(reached.any(-1), times[reached.argmax(-1)], np.inf)
    low = np.quantile(found[1:], (1 - level) / 2, method="lower")
    high = np.quantile(found[1:], (1 + level) / 2, method="higher")
    return Interval(float(found[0]), float(low), float(high))


def _weighted_iqm(values: Floats, counts: Floats) -> Floats:
    """`[R]`: ``iqm`` of values `[seeds]` that occur as often as `[R, seeds]` says; NaN if never."""
    order = np.argsort(values)
    upto = counts[:, order].cumsum(-1)
    total = upto[:, -1:]
    cut = np.floor(_TRIMMED * total)
    kept = np.diff(np.clip(upto - cut, 0, total - 2 * cut), prepend=0.0, axis=-1)
    with np.errstate(invalid="ignore"):
        return np.asarray(kept @ values[order] / (total - 2 * cut)[:, 0])


def _on_grid(x: Floats, y: Floats, grid: Floats, done: bool) -> Floats:
    """`[G]`: linear between a seed's own points; NaN before its first and, unless done, its end."""
    beyond = y[-1] if done else np.nan
    return np.asarray(np.interp(grid, x, y, left=np.nan, right=beyond), np.float64)


def curve(
    xs: Sequence[Floats],
    ys: Sequence[Floats],
    grid: Floats,
    done: Sequence[bool] | None = None,
    *,
    resamples: int = RESAMPLES_OF_CURVES,
    seed: int = 0,
    level: float = 0.95,
) -> Curve:
    """Learning curves of several seeds on a common grid: interquartile mean and its band.

    Nothing is extrapolated: before its first point a seed does not count, and beyond its last
    only if it is ``done``, with the value it ended with (it reached its goal and would stay). A
    seed that ran out of budget or failed does not count there, so a point may stand on fewer
    seeds than the one before; ``Curve.seeds`` says on how many. All points share their
    resamples of seeds.

    Args:
        xs: per seed `[points]`, increasing: env steps or seconds.
        ys: per seed `[points]`.
        grid: `[G]`.
        done: per seed, whether its last value holds on; by default of none.
        resamples: of the bootstrap.
        seed: of its draws.
        level: of confidence.
    """
    held = [False] * len(xs) if done is None else done
    lines = np.stack([_on_grid(x, y, grid, h) for x, y, h in zip(xs, ys, held, strict=True)])
    counts = counted(len(xs), resamples, seed)
    middle, low, high = np.full((3, len(grid)), np.nan)
    for at, values in enumerate(lines.T):
        there = np.isfinite(values)
        if there.any():
            found = _weighted_iqm(values[there], counts[:, there])
            middle[at], samples = found[0], found[1:]
            low[at], high[at] = bounds(samples[np.isfinite(samples)], level)
    return Curve(grid, middle, low, high, np.isfinite(lines).sum(0))
