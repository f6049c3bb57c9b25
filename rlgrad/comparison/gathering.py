"""Seeds of many runs, put together: one entry per agent and environment."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlgrad.card_files import TUNING
from rlgrad.comparison.records import (
    Entry,
    SeedRecord,
    about_run,
    can_be_judged,
    check_seed,
    identity,
    peer_of,
    read_seeds,
)
from rlgrad.store import Run, read_run


def gather(runs: Sequence[Run]) -> list[Entry]:
    """Runs grouped by environment and card; a seed that several runs hold is taken once.

    Raises:
        UsageError: for a run that is unfinished, damaged or was not evaluated.
    """
    groups: dict[str, list[tuple[Run, SeedRecord]]] = {}
    for run in runs:
        key = json.dumps(identity(run), sort_keys=True)
        groups.setdefault(key, []).extend((run, record) for record in read_seeds(run))
    entries = []
    for key, members in groups.items():
        card = json.loads(key)
        run = members[0][0]
        # Equal bits alone and together, so any run's seed will do: one that can be judged and was
        # not stopped early, and of those the one in the largest company.
        early = "solved", "stopped"
        ordered = sorted(
            (record for _, record in members),
            key=lambda r: (not can_be_judged(r), r.status in early, -r.together),
        )
        seeds: dict[int, SeedRecord] = {}
        for record in ordered:
            seeds.setdefault(record.seed, record)
        alone = {r.seed: r for r in ordered if r.together == 1}
        entries.append(
            Entry(
                run.env_id,
                run.agent,
                card,
                peer_of(card),
                run.result().get("solved_at"),
                tuple(seeds[seed] for seed in sorted(seeds)),
                tuple(alone[seed] for seed in sorted(alone)),
                *_about({run.path: run for run, _ in members}.values()),
            )
        )
    return entries


def _about(runs: Iterable[Run]) -> tuple[tuple[str, ...], dict[str, str], dict[str, Any]]:
    """(notes, versions, tuning) that the runs tell of; both versions where they differ."""
    versions: dict[str, str] = {}
    tuning: dict[str, Any] = {}
    notes: dict[str, None] = {}
    for run in runs:
        about = about_run(run)
        for package, version in dict(about.get("versions", {})).items():
            known = versions.setdefault(package, str(version))
            if version not in known.split(" and "):
                versions[package] = f"{known} and {version}"
        notes |= dict.fromkeys(map(str, about.get("notes") or ()))
        told = about.get("tuning")
        if isinstance(told, dict):
            tuning |= {key: told[key] for key in TUNING.keys() & told.keys()}
    return tuple(notes), versions, tuning


def from_paths(paths: Sequence[Path]) -> list[Entry]:
    """Entries of finished runs that the user named, labelled apart where one agent has two cards.

    Raises:
        UsageError: naming the run and what to do.
    """
    entries = gather([read_run(path) for path in paths])
    for entry in entries:
        for record in entry.seeds:
            check_seed(record)
    return labelled(entries)


def labelled(entries: Sequence[Entry]) -> list[Entry]:
    """The same with labels that are told apart, by what their cards differ in."""
    by_name: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        by_name.setdefault((entry.env, entry.agent), []).append(entry)
    renamed = {}
    for members in by_name.values():
        if len(members) > 1:
            tables = [flat(member.card) for member in members]
            keys = [k for k in sorted(set().union(*tables)) if len({t.get(k) for t in tables}) > 1]
            for member, table in zip(members, tables, strict=True):
                differing = ", ".join(f"{k.rpartition('.')[2]} {table.get(k, '-')}" for k in keys)
                renamed[id(member)] = f"{member.agent} ({differing})"
    return [replace(entry, agent=renamed.get(id(entry), entry.agent)) for entry in entries]


def flat(card: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested table as dotted keys to texts."""
    found: dict[str, str] = {}
    for key, value in card.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = json.dumps(value)
    return found
