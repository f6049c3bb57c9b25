"""Statistics across agents: what a comparison says beyond each one's own summary, as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rlgrad import stats
from rlgrad.comparison.gathering import flat
from rlgrad.comparison.records import Entry
from rlgrad.comparison.summaries import RESAMPLES, Floats, scores
from rlgrad.config import ESTIMATOR_OPTIONS
from rlgrad.stats import Interval

POINTS = 101  # of a curve
FEW = 5  # seeds below which intervals mean little
# Keys of a card in which agents differ by being what they are.
_MAKING = ("signal", "estimator", "action_critic", "objective", *ESTIMATOR_OPTIONS)
_OWN = {"agent", *(f"config.{key}" for key in _MAKING)}


def scales(entries: Sequence[Entry], floors: Mapping[str, float]) -> dict[str, float]:
    """The score that is 1 on each environment, random actions having 0.

    It is the score that counts as solved, or else the best seed's. An environment on which that
    is no more than random actions have is left out: it has no scale.
    """
    tops: dict[str, float] = {}
    for env in dict.fromkeys(entry.env for entry in entries):
        own = [entry for entry in entries if entry.env == env]
        best = max(float(scores(entry, floors[env]).max()) for entry in own)
        top = best if own[0].solved_at is None else own[0].solved_at
        if top > floors[env]:
            tops[env] = top
    return tops


def aggregate(
    entries: Sequence[Entry], floors: Mapping[str, float], seed: int
) -> dict[str, dict[str, Interval]]:
    """Statistics of normalised scores over several environments, by agent; empty for one."""
    tops = scales(entries, floors)
    if len({entry.env for entry in entries}) < 2 or not tops:
        return {}
    found = {}
    for agent in dict.fromkeys(e.agent for e in entries):
        own = [e for e in entries if e.agent == agent and e.env in tops]
        x: list[Floats] = [
            np.asarray(stats.normalised(scores(e, floors[e.env]), floors[e.env], tops[e.env]))
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
    improvements: Mapping[str, Mapping[str, Interval]], seeds: Mapping[str, int]
) -> list[str]:
    """What may be claimed of the best agent against each other, in words.

    The best is the one most likely to score above the others. Nothing is claimed from few seeds:
    where their scores do not overlap, the bootstrap sees no uncertainty at all.
    """
    if len(improvements) < 2:
        return []
    best = max(improvements, key=lambda agent: sum(p.value for p in improvements[agent].values()))
    lines = []
    for other, p in improvements[best].items():
        count = f"{seeds[best]} against {seeds[other]} seeds"
        said = f"probability {p.value:.2f}, 95 % interval {p.low:.2f} to {p.high:.2f}, {count}"
        if min(seeds[best], seeds[other]) < FEW:
            lines.append(f"too few seeds for a claim about {best} and {other} ({said})")
        elif p.low > 0.5:
            lines.append(f"{best} scores above {other} ({said})")
        else:
            lines.append(f"no difference shown between {best} and {other} ({said})")
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
