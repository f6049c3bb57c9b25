"""What a comparison still has to train, in blocks that one process takes at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rlgrad import cards
from rlgrad.cards import Resolved
from rlgrad.comparison.records import SeedRecord, about_run, identity, peer_of, read_seeds
from rlgrad.errors import UsageError
from rlgrad.finding import import_module
from rlgrad.make import is_simulated
from rlgrad.naming import safe_name
from rlgrad.store import Run, read_run
from rlgrad.versions import versions

_PEERS = ("stable-baselines3", "sb3")
LEAST_BLOCK = 5  # seeds of one process, below which its start-up outweighs a second core


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        envs: Gymnasium ids.
        agents: names of agents.
        seeds: of training.
        flags: fields of ``Config`` that override all cards, such as ``total_timesteps``.
        env_kwargs: for the environments' constructors.
        env_modules: to import first.
        log_dir: where runs are kept.
        eval_episodes: fresh episodes per seed and way of acting.
        jobs: processes or tasks at a time.
        alone: whether to train the first seed in a process of its own as well.
        retrain: whether to ignore finished runs.
        ray: the Ray cluster whose tasks train; None: processes of this machine do.
    """

    envs: tuple[str, ...]
    agents: tuple[str, ...]
    seeds: tuple[int, ...]
    flags: Mapping[str, Any] = field(default_factory=dict)
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    env_modules: tuple[str, ...] = ()
    log_dir: str = "runs"
    eval_episodes: int = 100
    jobs: int = 1
    alone: bool = False
    retrain: bool = False
    ray: str | None = None


class Task(NamedTuple):
    """Seeds of one agent on one environment, for one process."""

    env: str
    agent: str
    seeds: tuple[int, ...]

    @property
    def label(self) -> str:
        """In words."""
        count = f"{len(self.seeds)} seeds" if len(self.seeds) > 1 else f"seed {self.seeds[0]}"
        return f"{self.agent} on {self.env}, {count}"


@dataclass
class Plan:
    """Runs that will do, and what is missing."""

    runs: list[Run] = field(default_factory=list)
    """Finished ones to be reused."""
    tasks: list[Task] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def resolve(request: Request, env: str, agent: str) -> Resolved:
    """The card of an agent on an environment, as the request has it."""
    return cards.resolve(env, agent, None, request.flags, request.env_kwargs, request.env_modules)


def stepping(resolved: Resolved) -> str:
    """``--vec`` of what is compared: one process each, since that is what the seconds are of.

    Peers step in their own process, too; the bits are those of any other choice.
    """
    return "auto" if resolved.peer is not None or is_simulated(resolved.env) else "sync"


def make(request: Request) -> Plan:
    """Find finished runs with the same resolved card, and divide what is missing.

    Raises:
        UsageError: for an unknown name or a wrong value, before anything is trained.
    """
    for module in request.env_modules:
        import_module(module)
    plan, missing = Plan(), []
    for env in request.envs:
        for agent in request.agents:
            resolved = resolve(request, env, agent)
            plan.notes += [note for note in resolved.notes if note not in plan.notes]
            found = [] if request.retrain else _finished(request, resolved, plan.notes)
            covered = {record.seed for _, record in found}
            alone = {record.seed for _, record in found if record.together == 1}
            wanted = set(request.seeds)
            plan.runs += {r.path: r for r, record in found if record.seed in wanted}.values()
            peer = resolved.peer is not None
            missing.append((env, agent, peer, tuple(s for s in request.seeds if s not in covered)))
            first = request.seeds[0]
            if request.alone and not peer and len(request.seeds) > 1 and first not in alone:
                plan.tasks.append(Task(env, agent, (first,)))
    plan.tasks += _divided(missing, request.jobs)
    return plan


def _finished(
    request: Request, resolved: Resolved, notes: list[str]
) -> list[tuple[Run, SeedRecord]]:
    """Seeds that were trained to the end with this card, by these versions, and evaluated alike."""
    parent = Path(request.log_dir) / safe_name(resolved.env.id) / safe_name(resolved.agent)
    card, usable = identity(resolved), []
    # Only a peer's bits depend on what trains peers.
    now = {k: v for k, v in versions().items() if peer_of(card) or not k.startswith(_PEERS)}
    for path in sorted(parent.glob("*/result.json")):
        try:
            run = read_run(path.parent)
            if identity(run) != card:
                continue
            records, then = read_seeds(run), about_run(run).get("versions", {})
        except UsageError as error:
            notes.append(f"left out {path.parent}: {error}")
            continue
        changed = ", ".join(
            f"{k} {then.get(k)} -> {version}"
            for k, version in now.items()
            if then.get(k) != version
        )
        if changed:
            notes.append(f"left out {run.path}: it was trained by other versions ({changed})")
            continue
        usable += [(run, record) for record in records if _usable(record, request.eval_episodes)]
    return usable


def _usable(record: SeedRecord, episodes: int) -> bool:
    if record.status == "failed":
        return True  # the same card and seed would fail again
    evaluated = record.evaluation.get("sampled", {}).get("episodes")
    return record.status == "finished" and evaluated == episodes


def _divided(missing: Sequence[tuple[str, str, bool, tuple[int, ...]]], jobs: int) -> list[Task]:
    """Blocks of seeds; those that take longest first, so that the last ones fill the gaps.

    Seeds of our agents share a process, which is what makes them cheap; they are parted only where
    cores would stay idle. A peer trains one seed after another, so small blocks cost it nothing.
    """
    missing = [each for each in missing if each[3]]
    idle = -(-jobs // max(len(missing), 1))  # blocks per agent that it takes to fill the cores
    tasks: list[tuple[int, Task]] = []
    for env, agent, peer, seeds in missing:
        blocks = 2 * jobs if peer else min(idle, max(1, len(seeds) // LEAST_BLOCK))
        size = -(-len(seeds) // blocks)
        for start in range(0, len(seeds), size):
            tasks.append((0 if peer else 1, Task(env, agent, seeds[start : start + size])))
    return [task for _, task in sorted(tasks, key=lambda each: each[0])]
