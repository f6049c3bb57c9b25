"""From run directories to what a comparison knows of each seed."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlgrad.card_files import EnvCard
from rlgrad.cards import Resolved
from rlgrad.choosing import same_bits
from rlgrad.creating import card_text
from rlgrad.errors import UsageError
from rlgrad.reading import conform, read_json, read_toml
from rlgrad.store import Run

LEAST_EPISODES = 10
_CURVES = (
    "rollout/ep_rew_mean",
    "time/cpu_seconds",
    "gradient/variance",
)


@dataclass(frozen=True)
class SeedRecord:
    """One trained seed."""

    seed: int
    run: Path
    status: str
    """"finished" at the end of its budget, "solved" or "stopped" where it ended before, or
    "failed"."""
    steps: int
    """Env steps it trained."""
    together: int
    """Seeds that shared its process, itself included."""
    solved_at_step: int | None
    solved_at_seconds: float | None
    """CPU-seconds of the process when it counted as solved, divided by ``together``."""
    cpu_seconds: float
    """CPU-seconds of its training, divided by ``together``."""
    evaluation: dict[str, Any]
    """Scores on fresh episodes, "sampled" and "argmax"."""
    exact: bool
    """Whether it is, bit for bit, what one process would have given; see docs/resuming.md."""
    curves: dict[str, tuple[tuple[float, float], ...]]
    """(env steps, number) by tag of the record; seconds are already shared."""


@dataclass(frozen=True)
class Entry:
    """One agent on one environment: all its seeds, from one or several runs."""

    env: str
    agent: str
    """Label; tells apart cards of one agent that differ."""
    card: dict[str, Any]
    """What was trained, see ``identity``."""
    peer: bool
    solved_at: float | None
    seeds: tuple[SeedRecord, ...]
    alone: tuple[SeedRecord, ...] = ()
    """Seeds that had a process of their own, for their seconds."""
    notes: tuple[str, ...] = ()
    """What its trainings said of themselves, such as how env steps were rounded."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of the packages that trained them; several where runs differ."""
    tuning: dict[str, Any] = field(default_factory=dict)
    """How much tuning stands behind the settings; see ``card_files.TUNING``."""

    @property
    def runs(self) -> list[Path]:
        """Directories that the seeds come from."""
        return list(dict.fromkeys(record.run for record in (*self.seeds, *self.alone)))


def identity(card: Run | Resolved) -> dict[str, Any]:
    """All that decides what is trained: the run's card without its seeds.

    Of engines that give the same bits it tells none, so a run stands for all that would have been
    trained by another of them; one with other bits than ``--vec auto`` gives is told.
    """
    if isinstance(card, Run):
        try:
            table = read_toml(card.path / "card.toml")
        except (OSError, ValueError) as error:
            raise UsageError(f"{card.path}: card.toml cannot be read: {error}") from None
    else:
        table = tomllib.loads(card_text(card, [0]))
    table = {k: v for k, v in table.items() if k not in ("format", "seeds")}
    env = table["environment"]
    vec = env.pop("vec", "")
    env.pop("action_masks", None)  # what the config asks for decides it
    described = EnvCard(env["id"], simulator=env["simulator"], kwargs=env["kwargs"])
    bits = same_bits(described, vec)
    if bits != same_bits(described, ""):
        env["vec"] = bits
    return table


def read_seeds(run: Run) -> list[SeedRecord]:
    """What each seed of a run came to.

    Raises:
        UsageError: where the run has not ended, or was not evaluated.
    """
    result = run.result()
    if not result:
        raise UsageError(f"{run.path} is not finished; let it end, or leave it out")
    curves = _curves(run)
    records = []
    try:
        together = int(result.get("together", len(result["seeds"])))
        for row in result["seeds"]:
            records.append(_record(run, result, row, together, curves.get(row["seed"], {})))
        if not records:
            raise ValueError("no seeds")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{run.path}: result.json is damaged: {error!r}; train again") from None
    return records


def _record(
    run: Run,
    result: Mapping[str, Any],
    row: Mapping[str, Any],
    together: int,
    curves: dict[str, tuple[tuple[float, float], ...]],
) -> SeedRecord:
    seconds = (row.get("solved_at_seconds") or {}).get("cpu")
    shared = {
        tag: tuple((x, y / together) for x, y in points) if tag.startswith("time/") else points
        for tag, points in curves.items()
    }
    clock = shared.get("time/cpu_seconds")
    spent = clock[-1][1] if clock else float(result["cpu_seconds"]) / len(result["seeds"])
    return SeedRecord(
        int(row["seed"]),
        run.path,
        str(row["status"]),
        int(row["steps"]),
        together,
        row["solved_at_step"],
        None if seconds is None else float(seconds) / together,
        spent,
        dict(row["evaluation"] or {}),
        result.get("exact", True) is True,
        shared,
    )


def _curves(run: Run) -> dict[int, dict[str, tuple[tuple[float, float], ...]]]:
    """By seed and tag, (env steps, number) in the order of training."""
    found: dict[int, dict[str, list[tuple[float, float]]]] = {}
    for row in run.metrics():
        try:
            seed = found.setdefault(int(row["seed"]), {})
            for tag in _CURVES:
                if tag in row:
                    seed.setdefault(tag, []).append((float(row["step"]), float(row[tag])))
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"{run.path}: metrics.jsonl is damaged: {error!r}") from None
    return {seed: {tag: tuple(xy) for tag, xy in tags.items()} for seed, tags in found.items()}


def can_be_judged(record: SeedRecord) -> bool:
    """Whether it has ended, and was evaluated if it did not fail: see ``check_seed``."""
    ended = record.status not in ("running", "interrupted")
    return ended and (record.status == "failed" or bool(record.evaluation))


def check_seed(record: SeedRecord) -> None:
    """Refuse a seed that cannot stand in a comparison, and say what to do.

    Raises:
        UsageError: naming run and seed.
    """
    where = f"{record.run}: seed {record.seed}"
    if record.status in ("running", "interrupted"):
        raise UsageError(
            f"{where} was interrupted; let `rlgrad resume {record.run}` end it, or leave it out"
        )
    if record.status == "failed":
        return  # counted as unsolved, with the score of random actions
    if not record.evaluation:
        raise UsageError(f"{where} has no evaluation; train it again with --eval-episodes")
    episodes = record.evaluation["sampled"]["episodes"]
    if episodes < LEAST_EPISODES:
        raise UsageError(
            f"{where} was evaluated on {episodes} episodes; expected at least {LEAST_EPISODES}: "
            "train it again with a larger --eval-episodes"
        )


def peer_of(card: Mapping[str, Any]) -> bool:
    """Whether another library trained it."""
    return "peer" in card


def about_run(run: Run) -> dict[str, Any]:
    """What a run's run.json tells; empty where it cannot be read."""
    try:
        about = read_json(run.path / "run.json")
        conform(about, {"versions?": {}, "notes?": [str]})
        return about
    except (OSError, ValueError):
        return {}
