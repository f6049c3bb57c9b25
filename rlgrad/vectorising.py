"""Which engine steps many Gymnasium environments: this process, workers, or EnvPool."""

from __future__ import annotations

import statistics
import time
from typing import Any

from gymnasium.vector import VectorEnv

from rlgrad.chunked import ChunkedVectorEnv
from rlgrad.cores import cores
from rlgrad.errors import UsageError
from rlgrad.rows import Lane
from rlgrad.workers import FORKS

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
    return ChunkedVectorEnv([lane] * num_envs, None if engine == "async" else 0)


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
    except UsageError as error:
        return "sync", f"--vec auto took sync: in workers the environment fails: {error}"
    engine = "async" if there < GAIN * here else "sync"
    return engine, f"--vec auto took {engine}: {text}, {1e3 * there:.2f} ms in {workers} workers"
