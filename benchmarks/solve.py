"""Env steps and CPU-seconds to a solved CartPole-v1, on one core, beside Stable-Baselines3.

    python benchmarks/solve.py                     # 20 seeds per agent, 3 of the peer
    python benchmarks/solve.py --agents relax --seeds 100-199 --peer-seeds 0

Solved: mean return of the last 100 training episodes >= 475 (sampled actions). The peer is
Stable-Baselines3's PPO with the zoo's settings, in the same process, so the ratio of CPU-seconds
holds on a noisy machine.
Writes benchmarks/results/solve.json and docs/images/solve.png.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOLVED, WINDOW = 475.0, 100
# rl-baselines3-zoo, hyperparams/ppo.yml, CartPole-v1.
ZOO_PPO = {
    "n_steps": 32,
    "batch_size": 256,
    "gae_lambda": 0.8,
    "gamma": 0.98,
    "n_epochs": 20,
    "ent_coef": 0.0,
    "learning_rate": lambda left: left * 0.001,
    "clip_range": lambda left: left * 0.2,
}


def train_rlgrad(agent: str, seeds: str, steps: int) -> dict:
    import rlgrad

    with tempfile.TemporaryDirectory() as folder:
        run = rlgrad.train(
            "CartPole-v1",
            agent,
            seeds=seeds,
            total_timesteps=steps,
            stop_when_solved=True,
            eval_episodes=1,
            log_dir=folder,
            quiet=True,
        )
        result, metrics = run.result(), run.metrics()
    curves = {}
    for row in metrics:
        if "rollout/ep_rew_mean" in row:
            curves.setdefault(row["seed"], []).append((row["step"], row["rollout/ep_rew_mean"]))
    solved = [s["solved_at_step"] for s in result["seeds"] if s["solved_at_step"] is not None]
    seeds_trained = len(result["seeds"])
    return {
        "name": agent,
        "seeds": seeds_trained,
        "solved": sorted(solved),
        "cpu_seconds_per_seed": result["cpu_seconds"] / seeds_trained,
        "curves": curves,
    }


def train_peer(seeds: int) -> dict:
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env

    class StopWhenSolved(BaseCallback):
        def _on_step(self) -> bool:
            buffer = self.model.ep_info_buffer
            mean = statistics.fmean(e["r"] for e in buffer) if len(buffer) >= WINDOW else 0.0
            return mean < SOLVED

    torch.set_num_threads(1)
    solved, spent = [], 0.0
    for seed in range(seeds):
        env = make_vec_env("CartPole-v1", 8, seed=seed, env_kwargs={"render_mode": None})
        model = PPO("MlpPolicy", env, seed=seed, device="cpu", **ZOO_PPO)
        started = time.process_time()
        model.learn(100_000, callback=StopWhenSolved())
        spent += time.process_time() - started
        if model.num_timesteps < 100_000:
            solved.append(model.num_timesteps)
    return {
        "name": "Stable-Baselines3 PPO (zoo settings)",
        "seeds": seeds,
        "solved": sorted(solved),
        "cpu_seconds_per_seed": spent / seeds,
    }


def show(rows: list[dict]) -> None:
    base = rows[-1]["cpu_seconds_per_seed"]
    print(
        f"{'agent':38s} {'solved':>9s} {'median':>8s} {'max':>8s} {'CPU-s/seed':>11s} {'ratio':>6s}"
    )
    for row in rows:
        steps = row["solved"]
        # Unsolved seeds count as later than all others, so the median is of all seeds.
        middle = steps[row["seeds"] // 2] if len(steps) > row["seeds"] // 2 else None
        print(
            f"{row['name']:38s} {len(steps):4d}/{row['seeds']:<4d} "
            f"{middle or '-':>8} {steps[-1] if steps else '-':>8} "
            f"{row['cpu_seconds_per_seed']:11.3f} {base / row['cpu_seconds_per_seed']:6.1f}"
        )


def plot(rows: list[dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [row for row in rows if row.get("curves")]
    figure, axes = plt.subplots(
        1, len(shown), figsize=(4 * len(shown), 3), sharey=True, sharex=True
    )
    for axis, row in zip([axes] if len(shown) == 1 else axes, shown, strict=True):
        for curve in row["curves"].values():
            axis.plot(*zip(*curve, strict=True), color="tab:blue", alpha=0.35, linewidth=1)
        axis.axhline(SOLVED, color="black", linewidth=0.8, linestyle=":")
        axis.set_title(f"{row['name']}: {len(row['solved'])} of {row['seeds']} seeds solved")
        axis.set_xlabel("env steps per seed")
        axis.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k")
        axis.spines[["top", "right"]].set_visible(False)
    (axes if len(shown) == 1 else axes[0]).set_ylabel("return, mean of last 100 episodes")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agents", default="relax,actor-critic,reinforce-learned")
    parser.add_argument("--seeds", default="100-119", help="disjoint from those used for tuning")
    parser.add_argument("--steps", type=int, default=100_000, help="env steps per seed at most")
    parser.add_argument("--reinforce-steps", type=int, default=500_000)
    parser.add_argument("--peer-seeds", type=int, default=3)
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rows = []
    for agent in arguments.agents.split(","):
        steps = arguments.reinforce_steps if agent.startswith("reinforce") else arguments.steps
        rows.append(train_rlgrad(agent, arguments.seeds, steps))
    if arguments.peer_seeds:
        rows.append(train_peer(arguments.peer_seeds))
    show(rows)
    plot(rows, HERE.parent / "docs" / "images" / "solve.png")
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    slim = [{k: v for k, v in row.items() if k != "curves"} for row in rows]
    (results / "solve.json").write_text(json.dumps(slim, indent=1) + "\n")


if __name__ == "__main__":
    main()
