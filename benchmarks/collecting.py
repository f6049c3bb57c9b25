"""What an agent adds to the cost of stepping its environments: 16 of LunarLander-v3, one core.

    python benchmarks/collecting.py [--repeats 15] [--hidden 64]

Three things are timed in turn, over the same number of env steps, in CPU time of one process that
is pinned to one core: bare stepping of Gymnasium's SyncVectorEnv by random actions drawn
beforehand; collecting (policy, noise, storage, episode statistics); and whole actor-critic
training. Learning rates are so small that the policy stays as random as the bare actions: otherwise
a better lander's episodes, not the agent's cost, would be compared. Printed are medians of the
repeats' ratios over bare stepping, with 95 % bootstrap intervals; 1.25 means that 25 % is added.
Needs gymnasium[box2d].
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rlgrad.cards import resolve
from rlgrad.options import Options
from rlgrad.trainer import Trainer

ENVS, STEPS = 16, 32  # lanes; steps of a rollout


def trainer(env_id: str, hidden: int, seed: int) -> Trainer:
    """An actor-critic in training, with the card's own settings but for sizes and rates."""
    flags = {"num_envs": ENVS, "num_steps": STEPS, "hidden": (hidden, hidden)}
    flags |= {"learning_rate": 1e-12, "critic_learning_rate": 1e-12, "total_timesteps": 10**9}
    card = resolve(env_id, "actor-critic", None, flags)
    return Trainer(card, [seed], Options(vec="sync", device="cpu"))


def bare(env_id: str) -> Callable[[], None]:
    """A rollout of bare stepping."""
    make = [lambda: gymnasium.make(env_id)] * ENVS
    env = SyncVectorEnv(make, autoreset_mode=AutoresetMode.SAME_STEP)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(64 * STEPS)]
    env.reset(seed=0)
    turn = iter(range(1 << 60))

    def run() -> None:
        for _ in range(STEPS):
            env.step(actions[next(turn) % len(actions)])

    return run


def collecting(it: Trainer) -> Callable[[], None]:
    """A rollout of a trainer, with its statistics, without an update."""

    def run() -> None:
        rollout, it.observation = it._collect(it.observation)
        it._count(rollout)
        it.iteration += 1

    return run


def seconds(run: Callable[[], object], rollouts: int) -> float:
    """CPU-seconds of some rollouts: other processes on the core do not count."""
    started = time.process_time()
    for _ in range(rollouts):
        run()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--rollouts", type=int, default=16, help="per timing")
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--env", default="LunarLander-v3")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    runs = {
        "bare stepping": bare(arguments.env),
        "collecting": collecting(trainer(arguments.env, arguments.hidden, 1000)),
        "training": trainer(arguments.env, arguments.hidden, 1000).step,
    }
    for run in runs.values():
        seconds(run, 2)  # warm up
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(arguments.repeats):
        for name, run in runs.items():
            found[name].append(seconds(run, arguments.rollouts))
    steps, rng = ENVS * STEPS * arguments.rollouts, np.random.default_rng(0)
    print(f"{arguments.env}, {ENVS} environments, policy {arguments.hidden}x{arguments.hidden}")
    for name, times in found.items():
        pairs = np.array(times) / np.array(found["bare stepping"])
        medians = np.median(rng.choice(pairs, (2000, len(pairs))), axis=1)
        low, high = np.quantile(medians, [0.025, 0.975])
        each = 1e6 * np.median(times) / steps
        interval = f"{np.median(pairs):5.2f} [{low:.2f}, {high:.2f}]"
        print(f"  {name:14s} {each:7.1f} CPU-µs a step  {interval}")


if __name__ == "__main__":
    main()
