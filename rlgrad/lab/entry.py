"""``rlgrad.variance``: from names to a table of estimators."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlgrad.ambient import plain
from rlgrad.config import own_module
from rlgrad.errors import UsageError, nearest
from rlgrad.finding import import_module, spec
from rlgrad.lab import freeze
from rlgrad.lab.freeze import CriticChoice, Frozen
from rlgrad.lab.judging import judged
from rlgrad.lab.measuring import Settings
from rlgrad.lab.results import VarianceTable
from rlgrad.problems import PROBLEMS, Table, measure_all, problem
from rlgrad.store import Run, named_run


def _silent(line: str) -> None:
    return None


@plain()
def variance(
    target: str | None = None,
    estimators: str | Sequence[str] = "all",
    *,
    run: str | Path | Run | None = None,
    checkpoint: str | Path | None = None,
    every: int = 0,
    agent: str | None = None,
    seed: int | None = None,
    signal: str | None = None,
    critic: CriticChoice | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    env_modules: Sequence[str] = (),
    log_dir: str = "runs",
    progress: Callable[[str], None] = _silent,
    **settings: Any,
) -> VarianceTable | Table:
    """Bias, variance and cost of gradient estimators at a frozen policy, or on a problem.

    Args:
        target: Gymnasium id, or the name of a problem (``rlgrad list problems``); None: the run's
            environment.
        estimators: names, also as "relax,reinforce", and ``module:Class`` for one of your own;
            "all": all of rlgrad's that can be served.
        run: path of a run, "latest", or a ``Run``: its newest checkpoint is measured.
        checkpoint: file of a run instead.
        every: also each so-many-th checkpoint before it, in ``history``; 0: none.
        agent: card whose initial policy is measured where no run is given; None: actor-critic.
        seed: of the run's seeds; without a run, of the initial policy. A problem's noise.
        signal: credit instead of the agent's own.
        critic: "own" as in training, the default for a run that has one; else "fitted".
        env_kwargs: for the environment's constructor, where no run is given.
        env_modules: to import first.
        log_dir: where "latest" looks.
        progress: called with a line about what is being done.
        **settings: of ``Settings``: ``states``, ``fit_states``, ``env_seed``, ``objective``,
            ``train_steps``, ``split_states``; for a problem ``draws``, ``train_steps`` and its own.

    Raises:
        UsageError: for bad input.
    """
    chosen = _named(estimators)
    env_modules = (*env_modules, *(module for each in chosen or () for module in own_module(each)))
    for module in env_modules:
        import_module(module)
    stored = run is not None or checkpoint is not None
    if target in PROBLEMS and not stored:
        own = {k: settings.pop(k) for k in ("draws", "train_steps") if k in settings}
        return measure_all(
            problem(str(target), **settings), chosen, seed=seed or 0, progress=progress, **own
        )
    how = _how(settings)
    given: dict[str, Any] = {"signal": signal, "critic": critic, "env_modules": env_modules}
    if not stored:
        if every:
            raise UsageError("--every goes along the checkpoints of a run; give one with --run")
        if target is None:
            raise UsageError("variance needs a PROBLEM, an environment or --run RUN")
        _check_known(target)
        frozen, notes = freeze.fresh(target, agent, seed=seed or 0, env_kwargs=env_kwargs, **given)
        table = judged(frozen, chosen, how, progress)
        return dataclasses.replace(table, notes=notes)
    found, files = _checkpoints(run, checkpoint, every, log_dir)
    _check_same(found, target, agent, env_kwargs)
    frozen_ones = [freeze.stored(found, file, seed=seed, **given) for file in files]
    tables = [_one(frozen, chosen, how, progress, len(files)) for frozen in frozen_ones]
    return dataclasses.replace(tables[-1], history=tuple(tables[:-1]))


def _named(estimators: str | Sequence[str]) -> list[str] | None:
    """The estimators that are asked for; None: all."""
    listed = estimators.split(",") if isinstance(estimators, str) else estimators
    names = [name.strip() for name in listed]
    return None if names == ["all"] else names


def _how(settings: Mapping[str, Any]) -> Settings:
    """How to measure at a frozen policy; refuses what is no setting of that."""
    known = {field.name for field in dataclasses.fields(Settings)}
    for key in settings:
        if key not in known:
            raise UsageError(f"unknown argument {key!r}; {nearest(key, known)}")
    return Settings(**settings)


def _check_known(target: str) -> None:
    """Refuse what is neither a problem nor an environment."""
    if (Path(target) / "card.toml").is_file():
        raise UsageError(f"{target} is a run, not an environment; give it with run= or --run")
    try:
        spec(target)
    except UsageError:
        near = nearest(target, PROBLEMS, otherwise="none")
        if near != "none":
            raise UsageError(f"unknown problem {target!r}; {near}") from None
        raise


def _one(
    frozen: Frozen,
    chosen: list[str] | None,
    how: Settings,
    progress: Callable[[str], None],
    count: int,
) -> VarianceTable:
    where = f"step {frozen.step:,}: " if count > 1 else ""
    return judged(frozen, chosen, how, lambda line: progress(where + line))


def _checkpoints(
    run: str | Path | Run | None, checkpoint: str | Path | None, every: int, log_dir: str
) -> tuple[Run, list[Path | None]]:
    """(the run, its checkpoints that are to be measured, oldest first; None: its newest)."""
    if run is not None and checkpoint is not None:
        raise UsageError("got both --run and --checkpoint; expected one of them")
    if every < 0:
        raise UsageError(f"got --every {every}; expected at least 1, or 0 for the newest alone")
    if checkpoint is not None:
        if every:
            raise UsageError("--every goes along a run; give it with --run, not --checkpoint")
        path = Path(checkpoint)
        return freeze.run_of(path), [path]
    assert run is not None
    found = named_run(run, log_dir)
    return found, list(freeze.every(found, every)) if every else [None]


def _check_same(
    run: Run, target: str | None, agent: str | None, env_kwargs: Mapping[str, Any] | None
) -> None:
    """Refuse what a run settles by itself."""
    if target is not None and target != run.env_id:
        raise UsageError(f"{run.path} is of {run.env_id}, not of {target}; leave {target} out")
    if agent is not None:
        raise UsageError(f"{run.path} is of agent {run.agent}; leave --agent out")
    if env_kwargs:
        raise UsageError(f"{run.path} says how its environment is made; leave --env-kwargs out")
