"""A peer's process: Stable-Baselines3 by itself, until the last 100 training episodes are enough.

    python benchmarks/peer_sb3.py PPO CartPole-v1 475 [--seed 100]

Settings are those of rl-baselines3-zoo, as the cards `agents/sb3-*.toml` record them, and so are
the budgets. Environments are Gymnasium's, unrendered. A callback looks at the returns that
Stable-Baselines3 keeps itself, after every rollout, and ends `learn` with the update on the rollout
that reached the score. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import time
import tomllib
from pathlib import Path
from typing import Any

import stable_baselines3
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

WINDOW = 100
BUDGET = {("PPO", "CartPole-v1"): 100_000, ("PPO", "Acrobot-v1"): 1_000_000}
BUDGET |= {("A2C", "CartPole-v1"): 500_000, ("A2C", "Acrobot-v1"): 500_000}


class UntilSolved(BaseCallback):
    """Ends training where the mean return of the last 100 training episodes reaches a score."""

    def __init__(self, score: float) -> None:
        super().__init__()
        self.score, self.solved_at = score, None

    def _on_rollout_end(self) -> None:
        episodes = self.model.ep_info_buffer
        if self.solved_at is None and len(episodes) >= WINDOW:
            mean = sum(episode["r"] for episode in episodes) / len(episodes)
            self.solved_at = self.num_timesteps if mean >= self.score else None

    def _on_step(self) -> bool:
        return self.solved_at is None  # False one env step after the update that follows


def falling(text: str) -> Any:
    """The zoo's `lin_0.001`: in proportion to what is left of training."""
    start = float(text.removeprefix("lin_"))
    return lambda left: left * start


def build(algorithm: str, env_id: str, seed: int) -> Any:
    """The algorithm with its card's settings, ready to learn."""
    card = Path(__file__).parents[1] / "agents" / f"sb3-{algorithm.lower()}.toml"
    settings = tomllib.loads(card.read_text("utf-8"))["environments"][env_id]
    lanes, normalize = settings.pop("num_envs"), settings.pop("normalize", False)
    env = make_vec_env(env_id, lanes, seed=seed, env_kwargs={"render_mode": None})
    if normalize:
        env = VecNormalize(env, gamma=settings.get("gamma", 0.99))
    for key, value in settings.items():
        if isinstance(value, str) and value.startswith("lin_"):
            settings[key] = falling(value)
    cls = getattr(stable_baselines3, algorithm)
    return cls("MlpPolicy", env, seed=seed, device="cpu", **settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("algorithm", choices=["A2C", "PPO"])
    parser.add_argument("env", choices=sorted({env for _, env in BUDGET}))
    parser.add_argument("score", type=float)
    parser.add_argument("--seed", type=int, default=100)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = build(arguments.algorithm, arguments.env, arguments.seed)
    callback, wall, cpu = UntilSolved(arguments.score), time.perf_counter(), time.process_time()
    model.learn(BUDGET[arguments.algorithm, arguments.env], callback)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    told = {"steps": [callback.solved_at], "training": cpu, "training_wall": wall}
    print(json.dumps({**told, "compiling": 0.0, "unused": 0.0, "unused_wall": 0.0}))


if __name__ == "__main__":
    main()
