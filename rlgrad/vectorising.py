"""Which engine steps many Gymnasium environments: this process, workers, or EnvPool."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from rlgrad.errors import UsageError
from rlgrad.streams import Purpose, derive
from rlgrad.workers import FORKS, ChunkedVectorEnv, WorkerError, cores

Lane = Callable[[], gymnasium.Env[Any, Any]]
SPAN = 0.1  # seconds that an engine is measured
WORTH = 3e-4  # seconds of a step below which messages to workers cost more than they save
GAIN = 0.9  # of the time of one process that workers must stay below


def vectorise(lane: Lane, num_envs: int, engine: str) -> VectorEnv[Any, Any, Any]:
    """Environments in mode SAME_STEP; sync and async give the same bits.

    Args:
        lane: makes one of them.
        num_envs: how many.
        engine: sync (this process) or async (worker processes).
    """
    if engine == "async":
        return ChunkedVectorEnv([lane] * num_envs)
    return SyncVectorEnv([lane] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)


def _seconds(env: VectorEnv[Any, Any, Any]) -> float:
    """Median wall-clock of a step of random actions, in about ``SPAN`` seconds."""
    try:
        env.action_space.seed(0)
        env.reset(seed=0)
        times: list[float] = []
        started = time.perf_counter()
        while not times or time.perf_counter() - started < SPAN:
            action, before = env.action_space.sample(), time.perf_counter()
            env.step(action)
            times.append(time.perf_counter() - before)
        return statistics.median(times)
    finally:
        env.close()


def measure(lane: Lane, num_envs: int) -> tuple[str, str]:
    """The faster of the engines that give the same bits, and why; takes about 0.3 s.

    It is measured on few environments, made for this alone: those that are trained on start fresh.
    """
    workers = cores()
    # Where workers cannot be forked they run the user's script again: only where that is asked for.
    if workers < 2 or num_envs < 2 or not FORKS:
        return "sync", ""
    few = min(num_envs, 4 * workers)
    here = _seconds(vectorise(lane, few, "sync"))
    text = f"{few} environments take {1e3 * here:.2f} ms a step in this process"
    if here * num_envs / few < WORTH:
        return "sync", f"--vec auto took sync: {text}, too little to share out"
    try:
        there = _seconds(vectorise(lane, few, "async"))
    except WorkerError as error:
        return "sync", f"--vec auto took sync: in workers the environment fails: {error}"
    engine = "async" if there < GAIN * here else "sync"
    return engine, f"--vec auto took {engine}: {text}, {1e3 * there:.2f} ms in {workers} workers"


class PooledVectorEnv(VectorEnv[Any, Any, Any]):
    """EnvPool's version of an environment, with one thread, seeds that count and batched spaces.

    Its episodes differ from Gymnasium's. EnvPool takes seeds only when it is made, so a reset with
    a seed makes it anew.

    Args:
        env_id: EnvPool's id; Gymnasium's, without a namespace.
        num_envs: lanes.
        max_episode_steps: 0: the environment's own limit.

    Raises:
        UsageError: where EnvPool is not installed, or has no such environment, or one without Box
            observations.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "autoreset_mode": AutoresetMode.NEXT_STEP,
        "render_modes": [],
    }

    def __init__(self, env_id: str, num_envs: int, max_episode_steps: int = 0) -> None:
        try:
            import envpool
        except ImportError:
            raise UsageError(
                "--vec envpool needs EnvPool; run: pip install envpool (or use --vec auto)"
            ) from None
        name = env_id.rpartition("/")[2]
        if name not in envpool.list_all_envs():
            raise UsageError(f"EnvPool has no environment {name!r}; use --vec auto")
        limit = {"max_episode_steps": max_episode_steps} if max_episode_steps else {}
        self._options = {"env_type": "gymnasium", "num_envs": num_envs, "num_threads": 1, **limit}
        self._make, self._name, self.num_envs = envpool.make, name, num_envs
        self._pool = self._build({})
        self.max_episode_steps = self._pool.spec.config.max_episode_steps
        self.single_observation_space = self._pool.single_observation_space
        self.single_action_space = self._pool.single_action_space
        if not isinstance(self.single_observation_space, Box):
            raise UsageError(
                f"EnvPool's {name} observes {self.single_observation_space}; --vec envpool takes "
                "Box observations only, use --vec auto"
            )
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def _build(self, seeds: dict[str, Any]) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of bounds that lose digits
            pool = self._make(self._name, **self._options, **seeds)
            _ = pool.observation_space, pool.action_space  # made, and kept, on first use
        return pool

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Start new episodes in all lanes.

        Args:
            seed: an int: lane i gets seed + i; or one per lane; None goes on.
            options: none are known.
        """
        if seed is not None:
            lanes = range(self.num_envs)
            seeds = [seed + i for i in lanes] if isinstance(seed, int) else list(seed)
            short = [derive(each, Purpose.RESET, 0) & 0x7FFFFFF for each in seeds]
            self._pool.close()
            self._pool = self._build({"seed": short})
        return self._pool.reset()[0], {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One step in every lane; see ``gymnasium.vector.VectorEnv.step``."""
        *rest, _ = self._pool.step(np.asarray(actions, dtype=self.single_action_space.dtype))
        return rest[0], rest[1], rest[2], rest[3], {}

    def close_extras(self, **kwargs: Any) -> None:
        """Release EnvPool."""
        self._pool.close()
