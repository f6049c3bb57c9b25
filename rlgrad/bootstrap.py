"""Bootstrap over training seeds: resamples of them, and percentile intervals.

Scores are a list with one array per environment, one score per seed in it. A statistic works on
the last axis, so all resamples go through it in one call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Scores = Sequence[Floats]
"""Per environment `[..., seeds]`; environments may have different numbers of seeds."""

RESAMPLES = 10_000


class Interval(NamedTuple):
    """A number with the bounds of its interval."""

    value: float
    low: float
    high: float


def bootstrap_indices(
    counts: Sequence[int], resamples: int = RESAMPLES, seed: int = 0
) -> list[Integers]:
    """Seeds drawn with replacement within each environment (a stratified bootstrap).

    Args:
        counts: seeds of each environment.
        resamples: R.
        seed: of the draws.

    Returns:
        Per environment `[R, seeds]`.
    """
    generator = np.random.default_rng(seed)
    return [generator.integers(0, count, (resamples, count)) for count in counts]


def bounds(samples: Floats, level: float) -> tuple[float, float]:
    """Percentiles of a statistic's values over resamples `[R]`."""
    low, high = np.quantile(samples, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def interval(
    statistic: Callable[[Scores], Floats],
    scores: Scores,
    indices: Sequence[Integers],
    level: float = 0.95,
) -> Interval:
    """A statistic of the scores, with its percentile bootstrap interval.

    Args:
        statistic: of scores, along their last axis: ``iqm``, ``median``, ``mean``.
        scores: per environment `[seeds]`.
        indices: of ``bootstrap_indices``.
        level: of confidence.
    """
    samples = statistic([each[rows] for each, rows in zip(scores, indices, strict=True)])
    return Interval(float(statistic(scores)), *bounds(samples, level))


def weights(indices: Integers) -> Floats:
    """`[R, seeds]`: how often each seed was drawn in a resample."""
    resamples, count = indices.shape
    flat = indices + count * np.arange(resamples)[:, None]
    drawn = np.bincount(flat.ravel(), minlength=resamples * count)
    return drawn.reshape(resamples, count).astype(np.float64)


def counted(seeds: int, resamples: int, seed: int) -> Floats:
    """`[1 + R, seeds]`: how often each seed counts: once, then as in each resample."""
    drawn = weights(bootstrap_indices([seeds], resamples, seed)[0])
    return np.concatenate([np.ones((1, seeds)), drawn])
