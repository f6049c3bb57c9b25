"""What an agent adds to the cost of stepping its environments: 16 of LunarLander-v3, one core.

    python benchmarks/collecting.py [--repeats 15] [--hidden 64] [--device cuda] [--vec async]

Three things are timed in turn, over the same number of env steps, in CPU time of one process that
is pinned to one core: bare stepping of Gymnasium's SyncVectorEnv by random actions drawn
beforehand; collecting (policy, noise, storage, episode statistics); and whole actor-critic
training. Learning rates are so small that the policy stays as random as the bare actions: otherwise
a better lander's episodes, not the agent's cost, would be compared. Printed are medians of the
repeats' ratios over bare stepping, with 95 % bootstrap intervals; 1.25 means that 25 % is added.
Needs gymnasium[box2d].

With ``--device cuda`` networks live on the GPU, seconds are of the wall clock and nothing is
pinned; collecting and training come twice, as they are, with the policy choosing for half of the
lanes while the others step, and "in turn" without that. ``--vec async`` steps in workers.
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


def trainer(arguments: argparse.Namespace, overlaps: bool | None = None) -> Trainer:
    """An actor-critic in training, with the card's own settings but for sizes and rates."""
    hidden = arguments.hidden
    flags = {"num_envs": ENVS, "num_steps": STEPS, "hidden": (hidden, hidden)}
    flags |= {"learning_rate": 1e-12, "critic_learning_rate": 1e-12, "total_timesteps": 10**9}
    card = resolve(arguments.env, "actor-critic", None, flags)
    it = Trainer(card, [1000], Options(vec=arguments.vec, device=arguments.device))
    it.overlaps = it.overlaps if overlaps is None else overlaps
    return it


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


def seconds(run: Callable[[], object], rollouts: int, clock: Callable[[], float]) -> float:
    """Of some rollouts, all of which are waited for: counting them asks the device."""
    started = clock()
    for _ in range(rollouts):
        run()
    return clock() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--rollouts", type=int, default=16, help="per timing")
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--env", default="LunarLander-v3")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--vec", default="sync", choices=["sync", "async"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    # CPU-seconds, so that other processes on the core do not count; but nobody counts a GPU's.
    plain = arguments.device == "cpu" and arguments.vec == "sync"
    clock, unit = (time.process_time, "CPU-µs") if plain else (time.perf_counter, "µs")
    if plain and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    runs = {
        "bare stepping": bare(arguments.env),
        "collecting": collecting(trainer(arguments)),
        "training": trainer(arguments).step,
    }
    if arguments.device == "cuda":
        runs["collecting, in turn"] = collecting(trainer(arguments, overlaps=False))
        runs["training, in turn"] = trainer(arguments, overlaps=False).step
    for run in runs.values():
        seconds(run, 2, clock)  # warm up
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(arguments.repeats):
        for name, run in runs.items():
            found[name].append(seconds(run, arguments.rollouts, clock))
    steps, rng = ENVS * STEPS * arguments.rollouts, np.random.default_rng(0)
    print(f"{arguments.env}, {ENVS} environments, policy {arguments.hidden}x{arguments.hidden}")
    for name, times in found.items():
        pairs = np.array(times) / np.array(found["bare stepping"])
        medians = np.median(rng.choice(pairs, (2000, len(pairs))), axis=1)
        low, high = np.quantile(medians, [0.025, 0.975])
        each = 1e6 * np.median(times) / steps
        interval = f"{np.median(pairs):5.2f} [{low:.2f}, {high:.2f}]"
        print(f"  {name:20s} {each:7.1f} {unit} a step  {interval}")


if __name__ == "__main__":
    main()
