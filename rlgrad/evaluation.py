"""Evaluation on Gymnasium's own environment, on seeds that training never used."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlgrad.agent import Agent, Policy
from rlgrad.best import find_checkpoint
from rlgrad.engine import Outcome
from rlgrad.errors import UsageError
from rlgrad.lanes import Lanes
from rlgrad.loading import acting, load_policy, load_stored, open_run
from rlgrad.make import make_evaluation, time_limit
from rlgrad.store import Run
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


class NotFiniteError(UsageError):
    """An environment gave NaN or infinity, so no score means anything."""


def _check(x: NDArray[Any], total: Floats, alive: NDArray[np.bool_], t: int) -> None:
    """Refuse observations ``[L, F]`` and returns ``[L]`` that are not finite after step t."""
    for name, bad in (
        ("return", ~np.isfinite(total)),
        ("observation", alive & ~np.isfinite(x).all(1)),
    ):
        if bad.any():
            raise NotFiniteError(
                f"the environment gave an infinite or NaN {name} in evaluation, in step {t + 1} of "
                f"episode {int(bad.argmax())}"
            )


def evaluate(
    policy: Policy,
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
        policy: of one seed, an rlgrad ``Learner`` or a peer's.
        env_id: Gymnasium id; the environment is Gymnasium's own, not a simulator.
        seed: from which the environments' seeds are derived, apart from all of training's.
        episodes: by sampling, and as many again by argmax.
        env_kwargs: for the environment's constructor.
        max_episode_steps: 0: the environment's own limit.
        stop: polled every step; true gives up, and None is returned.

    Raises:
        NotFiniteError: where the environment gives NaN or infinity.
    """
    env = make_evaluation(env_id, 2 * episodes, env_kwargs, max_episode_steps, policy.masked)
    lanes = Lanes(env, [seed], "the evaluation of ")
    try:
        x = lanes.reset([derive(seed, Purpose.EVALUATE, 1, lane) for lane in range(2 * episodes)])
        streams, act, (D, A) = Streams([seed]), policy.actor(), policy.shape
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
            _check(x, total, alive, t)
            if stop():
                return None
            if not alive.any():
                break
    finally:
        lanes.close()
    halves = [(total[i], length[i], alive[i]) for i in (slice(episodes), slice(episodes, None))]
    return Evaluation(_score(*halves[0]), _score(*halves[1]))


def judge(
    run: Run, outcome: Outcome, checkpoint: Path | None, episodes: int, stop: Callable[[], bool]
) -> dict[str, float] | None:
    """Evaluate a seed of a run where a checkpoint stands, and note its scores, or that it failed.

    Args:
        run: that trains.
        outcome: of the seed.
        checkpoint: None: the run's newest.
        episodes: see ``evaluate``.
        stop: see ``evaluate``.

    Returns:
        What is logged, by TensorBoard tag; None where it was stopped.
    """
    try:
        evaluation = evaluate(
            load_policy(run, outcome.seed, checkpoint),
            run.env_id,
            outcome.seed,
            episodes,
            env_kwargs=run.env_kwargs,
            max_episode_steps=run.config.max_episode_steps,
            stop=stop,
        )
    except NotFiniteError as error:
        outcome.status, outcome.reason, outcome.evaluation = "failed", str(error), None
        return {}
    if evaluation is None:
        return None
    outcome.evaluation = evaluation.to_dict()
    return {
        "eval/mean_reward": evaluation.sampled.mean,
        "eval/mean_reward_argmax": evaluation.argmax.mean,
        "eval/mean_ep_length": evaluation.sampled.mean_length,
    }


def load(
    run: str | Path | Run,
    seed: int | None = None,
    *,
    which: str | int = "last",
    env_modules: Sequence[str] = (),
    log_dir: str = "runs",
) -> Agent:
    """A trained agent from a run directory.

    Args:
        run: path of the run, "latest", or a ``Run``.
        seed: which of the run's seeds; None: its first.
        which: "last": of its newest checkpoint; "best": where the seed's evaluation was best; a
            number: of the checkpoint at so many env steps.
        env_modules: to import first, where the environment is not Gymnasium's.
        log_dir: where "latest" looks.

    Raises:
        UsageError: where the run, its checkpoint or the seed is missing or damaged.
    """
    found = open_run(run, env_modules, log_dir)
    seed = found.seeds[0] if seed is None else seed
    policy = load_policy(found, seed, find_checkpoint(found, which, seed))
    return acting(found, seed, policy)


def evaluate_run(
    name: str,
    seed: int | None,
    episodes: int,
    env_seed: int,
    env_modules: Sequence[str] = (),
    log_dir: str = "runs",
    which: str | int = "last",
) -> list[dict[str, Any]]:
    """Evaluate one or all seeds of a run; one row each.

    Args:
        name: path of the run, or "latest".
        seed: which of its seeds; None: all.
        episodes: by sampling, and as many by argmax.
        env_seed: from which the episodes' seeds are derived.
        env_modules: to import first.
        log_dir: where "latest" looks.
        which: see ``load``.
    """
    run = open_run(name, env_modules, log_dir)
    rows = []
    for each in run.seeds if seed is None else [seed]:
        stored = load_stored(run, each, find_checkpoint(run, which, each))
        evaluation = evaluate(
            stored.policy,
            run.env_id,
            env_seed,
            episodes,
            env_kwargs=run.env_kwargs,
            max_episode_steps=run.config.max_episode_steps,
        )
        assert evaluation is not None
        about = {"run": str(run.path), "seed": each, "step": stored.steps}
        rows.append({**about, **evaluation.to_dict()})
    return rows
