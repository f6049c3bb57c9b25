"""``rlgrad.tune``: the same number of trials for every agent, and cards that come of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlgrad.cards import Resolved
from rlgrad.cluster.address import need_ray
from rlgrad.comparison.floor import random_score
from rlgrad.comparison.plan import Task
from rlgrad.comparison.workers import Crew, Local, train_all
from rlgrad.config import Config, as_table, check
from rlgrad.display import Board
from rlgrad.errors import UsageError
from rlgrad.naming import safe_name
from rlgrad.output import to_disk, write_whole
from rlgrad.sending import packed
from rlgrad.tuning import writing
from rlgrad.tuning.records import Tuned
from rlgrad.tuning.request import Request, asked, made_ready, need_optuna
from rlgrad.tuning.results import Tuning
from rlgrad.tuning.space import describe, space

_WORKER = "rlgrad.tuning.worker"


def tune(
    env: str,
    agents: str | Sequence[str] = ("actor-critic", "relax"),
    *,
    trials: int = 20,
    budget: float | None = None,
    seeds: int | str | Sequence[int] = "1000-1009",
    total_timesteps: int | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    env_modules: Sequence[str] = (),
    out: str | os.PathLike[str] | None = None,
    jobs: int = 0,
    log_dir: str | os.PathLike[str] = "runs",
    ray: str | None = None,
    quiet: bool = False,
) -> Tuning:
    """Tune agents on an environment, with as many trials each; the same call goes on.

    Args:
        env: Gymnasium id, also ``module:Env-v0``.
        agents: names of agents, as a sequence or joined by commas.
        trials: of each agent; the first is its card as it is.
        budget: CPU-hours in all, an equal share for each agent; None: no limit.
        seeds: trained together in every trial; reported ones (0-19 and 100-199) are refused.
        total_timesteps: env steps per seed and trial; None: the environment card's.
        env_kwargs: for the environment's constructor.
        env_modules: to import first, where the environment is not Gymnasium's.
        out: file of the tuned card of one agent, or folder of cards; None: beside the studies,
            in ``log_dir/tune/<environment>``.
        jobs: agents that are tuned at a time, each in a process; 0: one per core.
        log_dir: where studies are kept and found.
        ray: tune as tasks of a Ray cluster, see ``rlgrad.compare``; None: in processes here.
        quiet: show no progress.

    Raises:
        UsageError: for bad input, before anything is written; where a process failed.
        KeyboardInterrupt: after Ctrl-C; the trials that had ended are kept.
    """
    need_optuna()
    if ray is not None:
        need_ray(ray)
    request = asked(
        env, agents, trials, budget, seeds, jobs, tuple(env_modules),
        Path(log_dir) / "tune" / safe_name(env),
    )  # fmt: skip
    flags = {} if total_timesteps is None else {"total_timesteps": total_timesteps}
    resolved = made_ready(request, flags, dict(env_kwargs or {}))
    files = writing.targets(None if out is None else str(out), request.agents, request.root)
    floor = random_score(env, resolved[0].env.kwargs, resolved[0].config.max_episode_steps)
    missing = [card.agent for card in resolved if _begin(request, card, floor) < request.trials]
    board = Board(len(missing), quiet)
    for note in dict.fromkeys(note for card in resolved for note in card.notes):
        board.say(f"note: {note}")
    _run(request, [card for card in resolved if card.agent in missing], board, ray)
    found = _found(request)
    for each in found:
        writing.write(each, files[each.agent])
        _draw(each)
    return Tuning(found, tuple(files[agent] for agent in request.agents))


def _begin(request: Request, resolved: Resolved, floor: float) -> int:
    """Make the study of an agent, or see to it that the one there is the same; its trials so far.

    Raises:
        UsageError: where it is of other seeds, steps, arguments or another space.
    """
    from rlgrad.tuning.study import Study

    about = {
        "environment": resolved.env.id,
        "env_kwargs": resolved.env.kwargs,
        "agent": resolved.agent,
        "seeds": list(request.seeds),
        "total_timesteps": resolved.config.total_timesteps,
        "floor": floor,
        "config": as_table(resolved.config),
        "space": describe(space(resolved.config)),
    }
    folder = request.root / safe_name(resolved.agent)
    with to_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
    study = Study(folder)
    try:
        known = study.about
        for key in ("environment", "env_kwargs", "agent", "seeds", "total_timesteps"):
            if known and known.get(key) != about[key]:
                raise UsageError(
                    f"{folder} holds a study with {key} = {known.get(key)}, and {about[key]} is "
                    "asked for; give the same, or another --log-dir, or move the folder away"
                )
        if known and known["space"] != _ranges(known, folder):
            raise UsageError(
                f"{folder} holds a study of other ranges, begun by another version of rlgrad; move "
                "the folder away, or give another --log-dir, to begin anew"
            )
        if not known:
            study.begin(about)
        return len(study.trials())
    finally:
        study.close()


def _ranges(known: Mapping[str, Any], folder: Path) -> str:
    """What this version would try of a study's agent: trials from other ranges cannot be mixed."""
    return describe(space(Config(**check(known["config"], str(folder)))))


def _run(request: Request, missing: Sequence[Resolved], board: Board, ray: str | None) -> None:
    """Run the trials of the agents that have too few, an agent to a process."""
    if not missing:
        return
    tasks = [Task(request.env, card.agent, request.seeds) for card in missing]
    share = None if request.budget is None else 3600 * request.budget / len(request.agents)
    shared = {
        "root": str(request.root),
        "trials": request.trials,
        "cpu_seconds": share,
        "seeds": request.seeds,
    }
    cards = {card.agent: packed(card) for card in missing}
    crew = _crew(request, len(tasks), board, ray)
    board.say(
        f"tuning {', '.join(cards)} on {request.env}, {request.trials} trials each of "
        f"{len(request.seeds)} seeds x {missing[0].config.total_timesteps:,} env steps, "
        f"{crew.jobs} at a time"
    )
    kept = (
        f"trials that had ended are kept in {request.root}, and the same command goes on from them"
    )
    try:
        _, wrong = train_all(tasks, lambda task: {**shared, "what": cards[task.agent]}, crew, board)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped; {kept}") from None
    if wrong:
        raise UsageError(f"{'; '.join(wrong)}; {kept}")


def _crew(request: Request, agents: int, board: Board, ray: str | None) -> Crew:
    """Who runs the trials: processes here, or a Ray cluster."""
    if ray is None:
        return Local(min(request.jobs or os.cpu_count() or 1, agents), _WORKER)
    from rlgrad.cluster.crew import Cluster, Place

    def place(task: Task) -> Place:
        return Place(str(request.root / safe_name(task.agent)), str(request.root), 1)

    cluster = Cluster(ray, request.jobs, _WORKER, place)
    board.say(cluster.told)
    return cluster


def _found(request: Request) -> tuple[Tuned, ...]:
    """What the studies hold, cut to as many trials as every agent has."""
    found = [_read(request, agent) for agent in request.agents]
    count = min(request.trials, *(len(each.trials) for each in found))
    if not count:
        raise UsageError(
            f"--budget {request.budget:g} CPU-hours are used up before any trial; give more"
        )
    return tuple(
        replace(each, trials=each.trials[:count], left_out=len(each.trials) - count)
        for each in found
    )


def _read(request: Request, agent: str) -> Tuned:
    from rlgrad.tuning.study import Study

    folder = request.root / safe_name(agent)
    study = Study(folder)
    try:
        about, trials = study.about, tuple(study.trials())
    finally:
        study.close()
    return Tuned(
        request.env, agent, request.seeds, about["total_timesteps"], about["floor"],
        about["space"], trials, about["env_kwargs"], study=folder,
    )  # fmt: skip


def _draw(tuned: Tuned) -> None:
    """Write the picture of an agent's trials."""
    from rlgrad.drawing import png
    from rlgrad.tuning.figures import picture

    path = tuned.study / "trials.png"
    with to_disk(path):
        write_whole(path, png(picture(tuned)))
