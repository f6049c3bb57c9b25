"""``rlgrad.compare``: train what is missing, then judge."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlgrad.cluster.address import need_ray
from rlgrad.comparison import plan
from rlgrad.comparison.floor import floors
from rlgrad.comparison.gathering import from_paths, gather
from rlgrad.comparison.plan import Request, Task
from rlgrad.comparison.records import LEAST_EPISODES, Entry, check_seed
from rlgrad.comparison.results import Comparison
from rlgrad.comparison.workers import TRAINS, Local, train_all
from rlgrad.config import FIELDS
from rlgrad.cores import cores
from rlgrad.display import Board
from rlgrad.errors import UsageError, nearest
from rlgrad.finding import import_module
from rlgrad.loading import needed_modules, require_modules
from rlgrad.options import checked, parse_seeds
from rlgrad.peer_cards import SHARED
from rlgrad.sending import packed
from rlgrad.store import read_run
from rlgrad.training import engine

AGENTS = ("actor-critic", "relax")


def compare(
    *targets: str | os.PathLike[str],
    agents: str | Sequence[str] = AGENTS,
    seeds: int | str | Sequence[int] = 20,
    jobs: int = 0,
    alone: bool = False,
    retrain: bool = False,
    eval_episodes: int = 100,
    env_kwargs: Mapping[str, Any] | None = None,
    env_modules: Sequence[str] = (),
    log_dir: str | os.PathLike[str] = "runs",
    ray: str | None = None,
    quiet: bool = False,
    **flags: Any,
) -> Comparison:
    """Compare agents: on environments, training what is missing, or by finished runs.

    Args:
        *targets: Gymnasium ids, or directories of finished runs.
        agents: names of agents and peers, as a sequence or joined by commas.
        seeds: a count, a range "0-9", or a sequence of seeds.
        jobs: processes or tasks at a time; 0: one per core.
        alone: train the first seed in a process of its own as well, for its seconds.
        retrain: ignore finished runs.
        eval_episodes: fresh episodes per seed, by sampling and as many by argmax.
        env_kwargs: for the environments' constructors.
        env_modules: to import first, where an environment is not Gymnasium's.
        log_dir: where runs are kept and found.
        ray: train as tasks of a Ray cluster: "auto" (one that runs here, else one of its own),
            "local" (always one of its own) or HOST:PORT; None: in processes of this machine.
        quiet: show no progress.
        **flags: ``total_timesteps``, ``num_envs``, ``max_episode_steps`` for all agents.

    Raises:
        UsageError: for bad input, before anything is trained; or where a training failed.
    """
    paths = [Path(target) for target in targets if is_run(target)]
    if not targets or (paths and len(paths) < len(targets)):
        others = ", ".join(repr(str(t)) for t in targets if not is_run(t)) or "nothing"
        raise UsageError(
            f"got {others} to compare; expected environments, such as CartPole-v1, or run "
            "directories, not both"
        )
    for target in map(Path, targets):
        if len(target.parts) > 1 and target.parent.is_dir() and not target.is_dir():
            raise UsageError(f"there is no run {target}; {target.parent} is a directory without it")
    for module in env_modules:
        import_module(module)
    if paths:
        return _of_runs(paths, env_modules)
    request = _request(
        [str(target) for target in targets], agents, seeds, flags,
        env_kwargs=dict(env_kwargs or {}), env_modules=tuple(env_modules), log_dir=str(log_dir),
        eval_episodes=eval_episodes, jobs=jobs, alone=alone, retrain=retrain, ray=ray,
    )  # fmt: skip
    return _judged(request, *_trained(request, quiet))


def is_run(target: str | os.PathLike[str]) -> bool:
    """Whether a target is a directory; no environment's id should be one."""
    return Path(target).is_dir()


def _of_runs(paths: Sequence[Path], env_modules: Sequence[str]) -> Comparison:
    """Judge finished runs as they are."""
    for path in paths:
        require_modules(read_run(path), env_modules)
    entries = from_paths(paths)
    agents = {env: {e.agent for e in entries if e.env == env} for env in _envs(entries)}
    for env, has in agents.items():
        if missing := set().union(*agents.values()) - has:
            raise UsageError(
                f"the runs on {env} have no {', '.join(sorted(missing))}; several environments "
                "are compared by agents that have runs on all of them"
            )
    return Comparison(tuple(entries), floors(entries), ())


def _envs(entries: Sequence[Entry]) -> list[str]:
    return list(dict.fromkeys(entry.env for entry in entries))


def _request(
    targets: Sequence[str],
    agents: str | Sequence[str],
    seeds: Any,
    flags: dict[str, Any],
    **rest: Any,
) -> Request:
    """What is asked for, checked."""
    for key in flags:
        if key not in SHARED:
            kind = "differs from agent to agent" if key in FIELDS else "is unknown"
            raise UsageError(f"argument {key!r} {kind}; {nearest(key, SHARED)}")
    names = agents.split(",") if isinstance(agents, str) else list(agents)
    names = [name.strip() for name in names if name.strip()]
    if not names:
        raise UsageError("got no agents; expected names such as actor-critic,relax")
    if rest["jobs"] < 0:
        raise UsageError(f"got --jobs {rest['jobs']}; expected 0 (one per core) or more")
    if rest["eval_episodes"] < LEAST_EPISODES:
        raise UsageError(
            f"got --eval-episodes {rest['eval_episodes']}; a comparison needs at least "
            f"{LEAST_EPISODES} episodes per seed"
        )
    if rest["ray"] is not None:
        need_ray(rest["ray"])
    envs = tuple(dict.fromkeys(map(str, targets)))
    return Request(envs, tuple(dict.fromkeys(names)), tuple(parse_seeds(seeds)), flags, **rest)


def _check(request: Request, tasks: Sequence[Task]) -> None:
    """Make each thing that would be trained once, so that what cannot be is found before."""
    options = {"log_dir": request.log_dir, "eval_episodes": request.eval_episodes}
    for env, agent in dict.fromkeys((task.env, task.agent) for task in tasks):
        resolved = plan.resolve(request, env, agent)
        chosen = checked({**options, "vec": plan.stepping(resolved)})
        engine(resolved, request.seeds[:1], chosen).close()


def _trained(request: Request, quiet: bool) -> tuple[list[str], list[str]]:
    """Train what is missing; (paths of all runs, notes)."""
    jobs = request.jobs or cores()
    planned = plan.make(replace(request, jobs=jobs))
    _check(request, planned.tasks)
    board = Board(len(planned.tasks), quiet)
    if planned.runs:
        reused = f"{len(planned.runs)} finished runs" if len(planned.runs) > 1 else "a finished run"
        board.say(f"using {reused} with the same card from {request.log_dir}")
    for note in planned.notes:
        board.say(f"note: {note}")
    runs = [str(run.path) for run in planned.runs]
    if not planned.tasks:
        return runs, planned.notes
    if request.ray is None:
        jobs = min(jobs, len(planned.tasks))
        board.say(f"training {len(planned.tasks)} blocks of seeds in {jobs} processes")
        fresh, wrong = train_all(planned.tasks, told_of(request), Local(jobs), board)
    else:
        fresh, wrong = _on_ray(request, board)
    if wrong:
        raise UsageError(
            "; ".join(wrong) + f"; the other {len(runs) + len(fresh)} runs are kept, and the same "
            "command goes on from them"
        )
    return [*runs, *fresh], planned.notes


def told_of(request: Request) -> Callable[[Task], dict[str, Any]]:
    """What a worker is told of a task."""
    shared = {"root": request.log_dir, "options": {"eval_episodes": request.eval_episodes}}

    def told(task: Task) -> dict[str, Any]:
        resolved = plan.resolve(request, task.env, task.agent)
        env = resolved.env
        # A task that goes on elsewhere is read from its run, whose modules its asker named here.
        trusted = needed_modules(env.id, env.modules, resolved.config.estimator, resolved.peer)
        told = {"what": packed(resolved), "seeds": task.seeds, "env_modules": list(trusted)}
        return {**shared, **told}

    return told


def _on_ray(request: Request, board: Board) -> tuple[list[str], list[str]]:
    """Train what is missing as tasks of a Ray cluster, in blocks for as many CPUs as it has."""
    from rlgrad.cluster.crew import Cluster
    from rlgrad.cluster.sizing import place_of_run

    assert request.ray is not None
    cluster = Cluster(
        request.ray, request.jobs, TRAINS, lambda task: place_of_run(request, task, cluster.gpus)
    )
    tasks = plan.make(replace(request, jobs=cluster.jobs)).tasks
    board.resize(len(tasks))
    board.say(cluster.told)
    board.say(f"training {len(tasks)} blocks of seeds as tasks of Ray, {cluster.jobs} at a time")
    return train_all(tasks, told_of(request), cluster, board)


def _judged(request: Request, paths: Sequence[str], notes: Sequence[str]) -> Comparison:
    """The seeds that were asked for, of the runs that have them."""
    wanted, entries = set(request.seeds), []
    for entry in gather([read_run(Path(path)) for path in dict.fromkeys(paths)]):
        seeds = tuple(record for record in entry.seeds if record.seed in wanted)
        alone = tuple(record for record in entry.alone if record.seed in wanted)
        for record in seeds:
            check_seed(record)
        entries.append(replace(entry, seeds=seeds, alone=alone))
    order = {name: i for i, name in enumerate(request.agents)}
    entries.sort(key=lambda e: (request.envs.index(e.env), order.get(e.agent, len(order))))
    return Comparison(tuple(entries), floors(entries), tuple(notes))
