"""Evaluation on Gymnasium's own environment, on seeds that training never used."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces.utils import flatdim, flatten_space
from numpy.typing import NDArray

from rlgrad.actions import Actions
from rlgrad.agent import Agent
from rlgrad.errors import UsageError, shown
from rlgrad.lanes import Lanes
from rlgrad.learner import Learner
from rlgrad.make import import_module, make_evaluation, make_one, time_limit
from rlgrad.preflight import check_memory, observation_factors
from rlgrad.store import Run, find_run, load_checkpoint, read_run
from rlgrad.streams import Purpose, Streams, derive

Floats = NDArray[np.float64]
LONGEST = 2_000  # env steps after which an episode without a time limit is given up


@dataclass(frozen=True)
class Score:
    """Undiscounted returns of whole episodes."""

    mean: float
    deviation: float
    least: float
    most: float
    mean_length: float
    episodes: int
    unfinished: int
    """Episodes without a time limit, given up after 2,000 env steps with what they had."""


@dataclass(frozen=True)
class Evaluation:
    """The same agent acting by sampling and by its most probable action."""

    sampled: Score
    argmax: Score

    def to_dict(self) -> dict[str, Any]:
        """As plain numbers."""
        return dataclasses.asdict(self)


def _score(total: Floats, length: Floats, alive: NDArray[np.bool_]) -> Score:
    return Score(
        float(total.mean()),
        float(total.std()),
        float(total.min()),
        float(total.max()),
        float(length.mean()),
        len(total),
        int(alive.sum()),
    )


def evaluate(
    learner: Learner,
    env_id: str,
    seed: int,
    episodes: int = 100,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    max_episode_steps: int = 0,
    stop: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """Play fresh episodes, one per lane, so that short ones are not preferred.

    Args:
        learner: of one seed.
        env_id: Gymnasium id; the environment is Gymnasium's own, not a simulator.
        seed: from which the environments' seeds are derived, apart from all of training's.
        episodes: by sampling, and as many again by argmax.
        env_kwargs: for the environment's constructor.
        max_episode_steps: 0: the environment's own limit.
        stop: polled every step; true gives up, and None is returned.
    """
    lanes = Lanes(make_evaluation(env_id, 2 * episodes, env_kwargs, max_episode_steps))
    try:
        x = lanes.reset([derive(seed, Purpose.EVALUATE, 1, lane) for lane in range(2 * episodes)])
        streams, act, (D, A) = Streams([seed]), learner.actor(), learner.shape
        total, length = np.zeros(2 * episodes), np.zeros(2 * episodes)
        alive = np.ones(2 * episodes, dtype=bool)
        for t in range(time_limit(env_id, max_episode_steps) or LONGEST):
            logits = act(x[None])[0]
            noise = streams.exponential(Purpose.EVALUATE, t, episodes, D * A)[0].log()
            logits[:episodes] -= noise.numpy().reshape(episodes, D, A)
            step = lanes.step(logits.argmax(-1))
            total += np.where(alive, step.reward, 0.0)
            length += alive
            alive &= ~(step.terminated | step.truncated)
            x = step.observation
            if stop():
                return None
            if not alive.any():
                break
    finally:
        lanes.close()
    halves = [(total[i], length[i], alive[i]) for i in (slice(episodes), slice(episodes, None))]
    return Evaluation(_score(*halves[0]), _score(*halves[1]))


def load_learner(
    run: Run, seed: int | None = None, checkpoint: Path | None = None
) -> tuple[Learner, int]:
    """(learner of one seed, that seed) from a run's newest checkpoint or a given one."""
    files = run.checkpoints()
    if checkpoint is None and not files:
        raise UsageError(f"{run.path} has no checkpoint yet; let it train on")
    seed = run.seeds[0] if seed is None else seed
    if seed not in run.seeds:
        names = ", ".join(map(str, run.seeds))
        raise UsageError(f"{run.path} has no seed {seed}; it has {names}")
    path = checkpoint or files[-1]
    tensors, counters = load_checkpoint(path)
    learner = _empty_learner(run, seed, path, counters)
    expected, seeds, row = learner.state_dict(), len(run.seeds), run.seeds.index(seed)
    for name, like in expected.items():
        found = tensors.get(name)
        shape = [seeds, *like.shape[1:]]
        if found is None or list(found.shape) != shape or found.dtype != like.dtype:
            came = "nothing" if found is None else f"{found.dtype} {list(found.shape)}"
            raise UsageError(f"{path}: {name} is {came}; its card needs {like.dtype} {shape}")
        if not bool(found[row].isfinite().all()):
            raise UsageError(f"{path}: {name} has numbers that are not finite")
    learner.load_state_dict({name: tensors[name][row : row + 1] for name in expected})
    return learner, seed


def _empty_learner(run: Run, seed: int, path: Path, counters: dict[str, Any]) -> Learner:
    """A learner as card and environment say; the checkpoint's own numbers must agree."""
    env = make_one(run.env_id, run.env_kwargs, run.config.max_episode_steps)
    space, actions = flatten_space(env.observation_space), Actions(env.action_space)
    features = flatdim(space)
    env.close()
    try:
        scale = observation_factors(space, run.config.observation_scale)
        check_memory(run.config, features, actions.outputs, run.config.num_envs, 1)
    except UsageError as error:
        raise UsageError(f"{run.path}: {error}") from None
    says = {"features": features, "actions": list(actions.sizes), "observation_scale": scale}
    for key, value in says.items():
        if counters.get(key) != value:
            raise UsageError(
                f"{path}: {key} = {shown(counters.get(key))}; {run.env_id} with the run's card "
                f"has {shown(value)}"
            )
    return Learner(run.config, features, actions.sizes, [seed], scale)


def require_modules(run: Run, given: Sequence[str]) -> None:
    """Refuse to import what a run's card names: a file from elsewhere must not choose code to run.

    Raises:
        UsageError: with the flag that gives the consent.
    """
    named = [*run.env_modules, *([run.env_id.rpartition(":")[0]] if ":" in run.env_id else [])]
    for module in named:
        if module not in given and module not in sys.modules:
            raise UsageError(
                f"{run.path} needs the module {module!r} imported for its environment; "
                f"if you trust it, pass --env-module {module}"
            )


def load(
    run: str | Path | Run,
    seed: int | None = None,
    *,
    env_modules: Sequence[str] = (),
    log_dir: str = "runs",
) -> Agent:
    """A trained agent from a run directory.

    Args:
        run: path of the run, "latest", or a ``Run``.
        seed: which of the run's seeds; None: its first.
        env_modules: to import first, where the environment is not Gymnasium's.
        log_dir: where "latest" looks.

    Raises:
        UsageError: where the run, its checkpoint or the seed is missing or damaged.
    """
    found = run if isinstance(run, Run) else read_run(find_run(run, log_dir))
    for module in env_modules:
        import_module(module)
    require_modules(found, env_modules)
    learner, seed = load_learner(found, seed)
    env = make_one(found.env_id, found.env_kwargs, found.config.max_episode_steps)
    try:
        return Agent(learner, env.observation_space, env.action_space, seed)
    finally:
        env.close()


def evaluate_run(
    name: str,
    seed: int | None,
    episodes: int,
    env_seed: int,
    env_modules: Sequence[str] = (),
    log_dir: str = "runs",
) -> list[dict[str, Any]]:
    """Evaluate one or all seeds of a run; one row each.

    Args:
        name: path of the run, or "latest".
        seed: which of its seeds; None: all.
        episodes: by sampling, and as many by argmax.
        env_seed: from which the episodes' seeds are derived.
        env_modules: to import first.
        log_dir: where "latest" looks.
    """
    run = read_run(find_run(name, log_dir))
    for module in env_modules:
        import_module(module)
    require_modules(run, env_modules)
    rows = []
    for each in run.seeds if seed is None else [seed]:
        learner, _ = load_learner(run, each)
        evaluation = evaluate(
            learner,
            run.env_id,
            env_seed,
            episodes,
            env_kwargs=run.env_kwargs,
            max_episode_steps=run.config.max_episode_steps,
        )
        assert evaluation is not None
        rows.append({"run": str(run.path), "seed": each, **evaluation.to_dict()})
    return rows
