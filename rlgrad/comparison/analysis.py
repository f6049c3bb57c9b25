"""From seeds to statistics: what a comparison says, as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlgrad import stats
from rlgrad.comparison.gathering import flat
from rlgrad.comparison.records import Entry, SeedRecord
from rlgrad.config import ESTIMATOR_OPTIONS
from rlgrad.stats import Interval

Floats = NDArray[np.float64]
RESAMPLES = 5_000
POINTS = 101  # of a curve
FEW = 5  # seeds below which intervals mean little
# Keys of a card in which agents differ by being what they are.
_MAKING = ("signal", "estimator", "action_critic", "objective", *ESTIMATOR_OPTIONS)
_OWN = {"agent", *(f"config.{key}" for key in _MAKING)}


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
    found = [r.evaluation[way]["mean"] if r.evaluation else floor for r in entry.seeds]
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


def aggregate(
    entries: Sequence[Entry], floors: Mapping[str, float], seed: int
) -> dict[str, dict[str, Interval]]:
    """Statistics of normalised scores over all environments, by agent.

    A score is normalised so that random actions have 0 and the score that counts as solved has 1;
    without such a score the best seed's has 1.
    """
    tops = {e.env: e.solved_at for e in entries}
    for env, top in tops.items():
        if top is None:
            best = (scores(e, floors[env]).max() for e in entries if e.env == env)
            tops[env] = float(max(best))
    found = {}
    for agent in dict.fromkeys(e.agent for e in entries):
        own = [e for e in entries if e.agent == agent]
        x: list[Floats] = [
            np.asarray(stats.normalised(scores(e, floors[e.env]), floors[e.env], tops[e.env] or 0))
            for e in own
        ]
        indices = stats.bootstrap_indices([len(each) for each in x], RESAMPLES, seed)
        found[agent] = {
            name: stats.interval(statistic, x, indices)
            for name, statistic in (
                ("iqm", stats.iqm), ("median", stats.median), ("mean", stats.mean),
            )
        }  # fmt: skip
    return found


def improvement(
    entries: Sequence[Entry], floors: Mapping[str, float], seed: int
) -> dict[str, dict[str, Interval]]:
    """Probability that a seed of the first agent scores above one of the second, ties half."""
    agents = list(dict.fromkeys(e.agent for e in entries))
    x = {a: [scores(e, floors[e.env]) for e in entries if e.agent == a] for a in agents}
    drawn = {
        a: stats.bootstrap_indices([len(each) for each in x[a]], RESAMPLES, seed + i)
        for i, a in enumerate(agents)
    }
    return {
        a: {b: stats.improvement(x[a], x[b], drawn[a], drawn[b]) for b in agents if b != a}
        for a in agents
    }


def differences(entries: Sequence[Entry]) -> dict[str, dict[str, list[str]]]:
    """Where our agents' cards differ beyond what makes them other agents: key -> value -> agents.

    Peers have settings of their own and are left out.
    """
    ours = [(e, flat(e.card)) for e in entries if not e.peer]
    found: dict[str, dict[str, list[str]]] = {}
    for env in dict.fromkeys(e.env for e, _ in ours):
        tables = {e.agent: table for e, table in ours if e.env == env}
        for key in sorted(set().union(*tables.values()) - _OWN):
            values: dict[str, list[str]] = {}
            for agent, table in tables.items():
                values.setdefault(table.get(key, "unset"), []).append(agent)
            if len(values) > 1:
                several = len({e.env for e, _ in ours}) > 1
                name = key.removeprefix("config.") + (f" on {env}" if several else "")
                found[name] = values
    return found


def verdicts(
    improvements: Mapping[str, Mapping[str, Interval]],
    aggregates: Mapping[str, Mapping[str, Interval]],
    seeds: Mapping[str, int],
) -> list[str]:
    """What may be claimed of the best agent against each other, in words."""
    if len(aggregates) < 2:
        return []
    best = max(aggregates, key=lambda agent: aggregates[agent]["iqm"].value)
    lines = []
    for other, p in improvements[best].items():
        behind = f"(seeds: {seeds[best]} against {seeds[other]})"
        said = f"probability {p.value:.2f}, 95 % interval {p.low:.2f} to {p.high:.2f} {behind}"
        if p.low > 0.5:
            lines.append(f"{best} scores above {other}: {said}")
        else:
            lines.append(f"no difference shown between {best} and {other}: {said}")
    return lines


def curve(entry: Entry, tag: str, against: str = "steps", seed: int = 0) -> stats.Curve | None:
    """Interquartile mean of a logged number over the seeds, on a common grid.

    Args:
        entry: its seeds.
        tag: of the number.
        against: "steps" or "seconds" (CPU-seconds, shared by the seeds of the process).
        seed: of the bootstrap.

    Returns:
        None where nothing was logged.
    """
    xs, ys, held, ends = [], [], [], []
    for record in entry.seeds:
        points = record.curves.get(tag, ())
        if against == "seconds":
            clock = dict(record.curves.get("time/cpu_seconds", ()))
            points = tuple((clock[x], y) for x, y in points if x in clock)
        if not points:
            continue
        x, y = (np.array(each, dtype=np.float64) for each in zip(*points, strict=True))
        xs.append(x)
        ys.append(y)
        held.append(record.status == "solved")
        if record.status == "finished":
            ends.append(x[-1])
    if not xs:
        return None
    # From where all seeds have a value to where the first of those that trained to the end ends.
    first, last = max(x[0] for x in xs), min(ends, default=max(x[-1] for x in xs))
    if last <= first:
        return None
    return stats.curve(xs, ys, np.linspace(first, last, POINTS), held, seed=seed)
