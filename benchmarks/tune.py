"""The same tuning effort for every agent: a few random settings each, on seeds of their own.

    python benchmarks/tune.py                          # six agents on CartPole-v1, 12 trials each
    python benchmarks/tune.py --agents relax --trials 4

Trial 0 is the card as it stands; the others are drawn from one space, the same draws for all
agents. Widths are fixed: wider networks would cost more seconds, which are not judged. A trial is
judged by the mean over ten seeds of the learning curve's area (the mean of the last 100 episodes'
return, averaged over env steps), on seeds that no reported figure uses. Prints the best trial of
each agent, and writes all to benchmarks/results/tune.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
AGENTS = "reinforce,reinforce-constant,reinforce-learned,actor-critic,rebar,relax"
SEEDS = "1000-1009"
SPACE = (
    "learning_rate 1e-3 to 1e-2 and critic or baseline rate 1e-3 to 1e-2 (log-uniform), "
    "learning_rate_final 0.1 or 0.2, anneal_steps 60k or 100k; hidden 32x32"
)


def draw(rng: np.random.Generator) -> dict:
    """A setting; values that an agent makes no use of do it no harm."""
    rate = float(10 ** rng.uniform(-3, -2))
    return {
        "learning_rate": float(f"{10 ** rng.uniform(-3, -2):.2g}"),
        "critic_learning_rate": float(f"{rate:.2g}"),
        "estimator_learning_rate": float(f"{rate:.2g}"),
        "learning_rate_final": [0.1, 0.2][rng.integers(2)],
        "anneal_steps": [60_000, 100_000][rng.integers(2)],
    }


def judge(env: str, agent: str, flags: dict, steps: int) -> dict:
    """What a setting came to."""
    import rlgrad

    with tempfile.TemporaryDirectory() as folder:
        run = rlgrad.train(
            env, agent, seeds=SEEDS, total_timesteps=steps, eval_episodes=1,
            log_dir=folder, quiet=True, log_freq=steps // 50, hidden=(32, 32), **flags,
        )  # fmt: skip
        result, curves = run.result(), {}
        for row in run.metrics():
            if "rollout/ep_rew_mean" in row:
                curves.setdefault(row["seed"], []).append((row["step"], row["rollout/ep_rew_mean"]))
    grid = np.linspace(0, steps, 101)
    areas = [float(np.interp(grid, *zip(*c, strict=True)).mean()) for c in curves.values()]
    solved = [s["solved_at_step"] for s in result["seeds"]]
    found = sorted(s for s in solved if s is not None)
    return {
        "area": float(np.mean(areas)),
        "solved": len(found),
        "median_steps": found[len(solved) // 2] if len(found) > len(solved) // 2 else None,
        "slowest": max(found, default=None),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--agents", default=AGENTS)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--steps", type=int, default=100_000)
    arguments = parser.parse_args()
    rng = np.random.default_rng(1000)
    settings = [{}, *(draw(rng) for _ in range(arguments.trials - 1))]
    path = HERE / "results" / "tune.json"
    record = json.loads(path.read_text()) if path.exists() else {}
    for agent in arguments.agents.split(","):
        rows = []
        for i, flags in enumerate(settings):
            rows.append(
                {"trial": i, "flags": flags} | judge(arguments.env, agent, flags, arguments.steps)
            )
            row = rows[-1]
            print(
                f"{agent} trial {i}: area {row['area']:.1f}, solved {row['solved']}, "
                f"median {row['median_steps']}, slowest {row['slowest']} {flags}",
                flush=True,
            )
        best = max(rows, key=lambda row: row["area"])
        print(f"{agent}: best is trial {best['trial']}: {best['flags']}", flush=True)
        record[f"{agent} on {arguments.env}"] = {
            "space": SPACE, "seeds": SEEDS, "steps": arguments.steps, "trials": rows,
        }  # fmt: skip
        path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
