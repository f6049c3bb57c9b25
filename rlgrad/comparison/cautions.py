"""What a reader must know before believing a comparison, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rlgrad.comparison.analysis import FEW
from rlgrad.comparison.records import Entry
from rlgrad.errors import UsageError
from rlgrad.options import parse_seeds

Entries = Sequence[Entry]


def _few_seeds(entries: Entries) -> Iterator[str]:
    counts = {len(entry.seeds) for entry in entries}
    if min(counts) < FEW:
        yield (
            f"an agent has only {min(counts)} seeds: with fewer than {FEW} the intervals mean "
            "little, since resampling so few seeds cannot show how others would do"
        )
    if len(counts) > 1:
        yield f"agents have different numbers of seeds, {min(counts)} to {max(counts)}"


def _protocols(entries: Entries) -> Iterator[str]:
    for env in dict.fromkeys(entry.env for entry in entries):
        own = [entry for entry in entries if entry.env == env]
        steps = {e.agent: max(record.steps for record in e.seeds) for e in own}
        if max(steps.values()) > 1.05 * min(steps.values()):
            told = ", ".join(f"{agent} {count:,}" for agent, count in steps.items())
            yield f"agents were trained for different numbers of env steps on {env}: {told}"
        worlds = [{**e.card.get("environment", {}), "simulator": ""} for e in own]
        for world in worlds:
            if world.get("vec") != "envpool":  # a simulator's environment is Gymnasium's
                world.pop("vec", None)
        if any(world != worlds[0] for world in worlds):
            yield f"agents met different variants of {env}: see its arguments in the cards"
    scores = [r.evaluation["sampled"] for e in entries for r in e.seeds if r.evaluation]
    episodes = {score["episodes"] for score in scores}
    if len(episodes) > 1:
        yield f"seeds were evaluated on {min(episodes)} to {max(episodes)} episodes"
    if any(record.status == "solved" for entry in entries for record in entry.seeds):
        yield "some seeds were stopped once solved, and scored with what they had then"
    if any(record.status == "stopped" for entry in entries for record in entry.seeds):
        yield "some seeds were stopped by a callback, and scored with what they had then"


def _versions(entries: Entries) -> Iterator[str]:
    for package in sorted({package for entry in entries for package in entry.versions}):
        found = {v for e in entries if (v := e.versions.get(package)) is not None}
        if len(found) > 1 or any(" and " in version for version in found):
            yield f"runs were made by different versions of {package}"


def _tuning(entries: Entries) -> Iterator[str]:
    for entry in entries:
        try:
            tuned = parse_seeds(entry.tuning.get("seeds", ""))
        except UsageError:  # nothing is told, or nothing that can be read
            continue
        if both := {record.seed for record in entry.seeds} & set(tuned):
            yield (
                f"{entry.agent} was tuned on {len(both)} of the {len(entry.seeds)} seeds reported "
                "here: its scores flatter it"
            )


def _company(entries: Entries) -> Iterator[str]:
    """Seconds that are shared are comparable only where as many share them."""
    sizes = {e.agent: {record.together for record in e.seeds} for e in entries if not e.peer}
    mixed = [agent for agent, found in sizes.items() if len(found) > 1]
    if mixed:
        yield (
            f"the seeds of {', '.join(mixed)} were trained in processes of different company; the "
            "CPU-seconds together are of the largest alone"
        )
    if len({max(found) for found in sizes.values()}) > 1:
        told = ", ".join(f"{agent} {max(found)}" for agent, found in sizes.items())
        yield f"CPU-seconds together are shared by different numbers of seeds: {told}"


def _failures(entries: Entries) -> Iterator[str]:
    failed = {
        f"{entry.agent} on {entry.env}": sum(r.status == "failed" for r in entry.seeds)
        for entry in entries
    }
    named = [f"{name} ({count})" for name, count in failed.items() if count]
    if named:
        yield f"seeds failed: {', '.join(named)}; they count with the score of random actions"


def _inexact(entries: Entries) -> Iterator[str]:
    marked = {e.agent: sum(not r.exact for r in (*e.seeds, *e.alone)) for e in entries}
    named = [f"{agent} ({count})" for agent, count in marked.items() if count]
    if named:
        yield (
            f"seeds were resumed where they could not be put exactly as they stood: "
            f"{', '.join(named)}; an uninterrupted training may score otherwise"
        )


_ALL: tuple[Callable[[Entries], Iterator[str]], ...] = (
    _few_seeds, _protocols, _company, _versions, _tuning, _inexact, _failures,
)  # fmt: skip


def cautions(entries: Entries) -> list[str]:
    """All that apply."""
    return [line for each in _ALL for line in each(entries)]
