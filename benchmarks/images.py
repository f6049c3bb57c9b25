"""Learning from images in a short run: one game of MinAtar, one of Atari, beside random actions.

    python benchmarks/images.py [--envs MinAtar/Breakout-v1] [--steps 300_000] [--seed 1000]

Each environment is trained once with the actor-critic of its card, and the mean return of the last
100 training episodes is printed along the way, with the CPU time of training until then. Needs the
extras minatar and atari.
"""

from __future__ import annotations

import argparse
import json
import tempfile

import numpy as np
import torch

import rlgrad
from rlgrad.lanes import Lanes
from rlgrad.make import make_evaluation

POINTS = 12  # of a curve
STEPS = {"MinAtar/Breakout-v1": 300_000, "ALE/UpNDown-v5": 150_000}


def random_score(env_id: str, episodes: int, seed: int) -> tuple[float, float]:
    """(mean return of uniformly random actions, its standard error)."""
    rng, lanes = np.random.default_rng(seed), Lanes(make_evaluation(env_id, episodes))
    lanes.reset([seed + i for i in range(episodes)])
    total, alive = np.zeros(episodes), np.ones(episodes, dtype=bool)
    while alive.any():
        step = lanes.step(rng.integers(0, lanes.actions.sizes[0], (episodes, 1)))
        total += np.where(alive, step.reward, 0)
        alive &= ~(step.terminated | step.truncated)
    lanes.close()
    return float(total.mean()), float(total.std() / np.sqrt(episodes))


def curve(env_id: str, steps: int, seed: int) -> None:
    mean, error = random_score(env_id, 20, seed)
    print(f"{env_id}, seed {seed}\n  random actions: {mean:.4g} ± {error:.2g} (20 episodes)")
    with tempfile.TemporaryDirectory() as folder:
        run = rlgrad.train(
            env_id, "actor-critic", total_timesteps=steps, seeds=[seed], eval_episodes=10,
            log_dir=folder, quiet=True,
        )  # fmt: skip
        lines = (run.path / "metrics.jsonl").read_text("utf-8").splitlines()
        rows = [row for row in map(json.loads, lines) if "rollout/ep_rew_mean" in row]
        for row in rows[:: max(1, len(rows) // POINTS)]:
            print(
                f"  {row['step']:>9,} env steps: {row['rollout/ep_rew_mean']:8.4g}"
                f"  ({row['time/cpu_seconds']:.0f} CPU s)"
            )
        found = run.result()["seeds"][0]["evaluation"]
        for way in ("sampled", "argmax"):
            score = found[way]
            print(f"  {way}: {score['mean']:.4g}, deviation {score['deviation']:.3g}, 10 episodes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--envs", nargs="+", default=list(STEPS))
    parser.add_argument("--steps", type=int, help="env steps; each environment has its own")
    parser.add_argument("--seed", type=int, default=1000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for env_id in given.envs:
        curve(env_id, given.steps or STEPS.get(env_id, 300_000), given.seed)


if __name__ == "__main__":
    main()
