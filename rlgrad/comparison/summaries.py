"""One agent on one environment, as statistics over its seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlgrad import stats
from rlgrad.comparison.records import Entry, SeedRecord
from rlgrad.stats import Interval

Floats = NDArray[np.float64]
RESAMPLES = 5_000


@dataclass(frozen=True)
class Summary:
    """One agent on one environment."""

    env: str
    agent: str
    peer: bool
    seeds: int
    failed: int
    """Seeds whose numbers became infinite or NaN; they count with the score of random actions."""
    iqm: Interval
    """Interquartile mean over seeds of the mean return on fresh episodes, acting by sampling."""
    median: Interval
    """Over seeds."""
    mean: Interval
    argmax: Interval
    """Interquartile mean, acting by the most probable action."""
    solved: int
    steps_to_solve: Interval | None
    """Median over seeds, those unsolved being censored; inf: fewer than half are solved."""
    seconds_together: Interval | None
    """Median CPU-seconds to solve: of the process, divided by the seeds that shared it."""
    together: int
    """Seeds that shared a process."""
    seconds_alone: Interval | None
    """Median CPU-seconds to solve of seeds that had a process of their own."""
    alone: int
    """How many such seeds there were."""
    cpu_seconds: float
    """Mean CPU-seconds of a seed's whole training, shared likewise."""


def scores(entry: Entry, floor: float, way: str = "sampled") -> Floats:
    """Mean returns on fresh episodes, one per seed; ``floor`` for those that failed."""
    found = [
        floor if r.status == "failed" or not r.evaluation else r.evaluation[way]["mean"]
        for r in entry.seeds
    ]
    return np.array(found, dtype=np.float64)


def seed_median(x: Sequence[Floats]) -> Floats:
    """Median over the seeds of one environment ``[..., seeds]``."""
    return np.asarray(np.median(x[0], -1))


def summarise(entry: Entry, floor: float, seed: int) -> Summary:
    """All numbers of one agent on one environment.

    Args:
        entry: its seeds.
        floor: score of random actions.
        seed: of the bootstrap.
    """
    sampled, argmax = ([scores(entry, floor, way)] for way in ("sampled", "argmax"))
    indices = stats.bootstrap_indices([len(entry.seeds)], RESAMPLES, seed)

    def over(statistic: Callable[..., Any], x: Sequence[Floats]) -> Interval:
        return stats.interval(statistic, x, indices)

    most = max(record.together for record in entry.seeds)
    shared = [record for record in entry.seeds if record.together == most]
    return Summary(
        entry.env,
        entry.agent,
        entry.peer,
        len(entry.seeds),
        sum(record.status == "failed" for record in entry.seeds),
        over(stats.iqm, sampled),
        over(seed_median, sampled),
        over(stats.mean, sampled),
        over(stats.iqm, argmax),
        sum(record.solved_at_step is not None for record in entry.seeds),
        _to_solve(entry, entry.seeds, "steps", seed),
        _to_solve(entry, shared, "seconds", seed) if most > 1 else None,
        most,
        _to_solve(entry, entry.alone, "seconds", seed),
        len(entry.alone),
        float(np.mean([record.cpu_seconds for record in shared])),
    )


def times(records: Sequence[SeedRecord], unit: str) -> tuple[Floats, NDArray[np.bool_]]:
    """(steps or CPU-seconds until solved or given up, whether solved), one per seed."""
    solved = [record.solved_at_step is not None for record in records]
    pairs = [
        (r.solved_at_step, r.steps) if unit == "steps" else (r.solved_at_seconds, r.cpu_seconds)
        for r in records
    ]
    x = [ended if reached is None else reached for reached, ended in pairs]
    return np.array(x, dtype=np.float64), np.array(solved)


def _to_solve(entry: Entry, records: Sequence[SeedRecord], unit: str, seed: int) -> Interval | None:
    """Median to solve; None where the environment has no such score, or no seed to tell."""
    if entry.solved_at is None or not records:
        return None
    return stats.median_time(*times(records, unit), resamples=RESAMPLES, seed=seed)
