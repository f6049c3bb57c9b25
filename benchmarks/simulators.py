"""Env-only steps per second: rlgrad's simulators, Gymnasium's classes and EnvPool, on one core.

    python benchmarks/simulators.py [--lanes 8,1024] [--repeats 15]

Every environment is stepped with the same random actions, drawn beforehand, resets included, in
one process that is pinned to one core; EnvPool has one thread. Each repeat times all of them one
after another, so that a machine that slows down slows all; printed are medians of the repeats'
ratios, rlgrad's steps per second over theirs (above 1: rlgrad is faster), with a 95 % bootstrap
interval. `training` is the call that the training loop makes (arrays that may share memory); `step`
is the public one (tensors of the caller's own). Gymnasium's vectoriser is SyncVectorEnv; only
CartPole has a batched class. EnvPool is left out where it is not installed.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch

import rlgrad.simulators  # noqa: F401

IDS = ("CartPole-v1", "Acrobot-v1", "MountainCar-v0")
SECONDS = 0.1  # per timing


def steppers(env_id: str, lanes: int) -> dict[str, tuple[Callable[[Any], Any], Any]]:
    """By name: (a function that steps all lanes, 64 batches of actions to give it)."""
    rng, found = np.random.default_rng(0), {}
    count = gymnasium.make(env_id).action_space.n
    actions = rng.integers(count, size=(64, lanes))
    ours = gymnasium.make_vec(f"rlgrad/{env_id}", num_envs=lanes)
    again = gymnasium.make_vec(f"rlgrad/{env_id}", num_envs=lanes)
    found["training"] = ours, ours.unwrapped.advance, actions
    found["step"] = again, again.step, torch.as_tensor(actions)
    sync = gymnasium.make_vec(env_id, num_envs=lanes, vectorization_mode="sync")
    found["sync"] = sync, sync.step, actions
    if gymnasium.spec(env_id).vector_entry_point:
        own = gymnasium.make_vec(env_id, num_envs=lanes, vectorization_mode="vector_entry_point")
        found["own class"] = own, own.step, actions
    try:
        import envpool

        pool = envpool.make(env_id, env_type="gymnasium", num_envs=lanes, num_threads=1)
        found["envpool"] = pool, pool.step, actions
    except ImportError:
        pass
    for name, (env, _, _) in found.items():
        env.reset() if name == "envpool" else env.reset(seed=0)
    return {name: (step, batches) for name, (_, step, batches) in found.items()}


def speed(step: Callable[[Any], Any], actions: Any, lanes: int) -> float:
    """Env steps per second."""
    calls, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < SECONDS:
        step(actions[calls % len(actions)])
        calls += 1
    return calls * lanes / passed


def ratio(ours: list[float], theirs: list[float]) -> str:
    """Median of the repeats' ratios with its interval."""
    pairs = np.array(ours) / np.array(theirs)
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(pairs, (2000, len(pairs))), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return f"{np.median(pairs):6.2f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lanes", default="8,1024")
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for env_id in IDS:
        for lanes in map(int, arguments.lanes.split(",")):
            each = steppers(env_id, lanes)
            for step, actions in each.values():
                speed(step, actions, lanes)  # warm up
            found: dict[str, list[float]] = {name: [] for name in each}
            for _ in range(arguments.repeats):
                for name, (step, actions) in each.items():
                    found[name].append(speed(step, actions, lanes))
            print(f"{env_id}, {lanes:,} lanes", flush=True)
            for name in found.keys() - {"training", "step"}:
                rows = (f"{own} {ratio(found[own], found[name])}" for own in ("training", "step"))
                print(f"  over {name:10s} {'   '.join(rows)}", flush=True)


if __name__ == "__main__":
    main()
