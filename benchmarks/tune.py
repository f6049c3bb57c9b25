"""The same tuning effort for every agent: a few random settings each, on seeds of their own.

    python benchmarks/tune.py                          # seven agents on CartPole-v1, 12 trials each
    python benchmarks/tune.py --agents relax --trials 4

Trial 0 is one fixed starting point; the others are drawn from one space, the same settings for all
agents. Widths and the rollout are fixed: wider networks and shorter rollouts would cost more
seconds, which are not judged. A trial is judged by the mean over ten seeds of the learning curve's
area (the mean of the last 100 episodes' return, averaged over env steps). Ten seeds do not show a
rare failure, so the three best trials and trial 0 then meet on 100 further seeds, and the one that
solves most of them is taken; of equals, the one of the largest area. No reported figure uses any of
these seeds. Writes all trials to benchmarks/results/tune.json; trials that are in it already are
not run again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
AGENTS = (
    "reinforce,reinforce-constant,reinforce-learned,actor-critic,rebar,relax,all-action-control"
)
SEEDS, FURTHER, FINALISTS = "2010-2019", "2200-2299", 3
SPACE = (
    "learning_rate 1e-3 to 1e-2 and critic or baseline rate 1e-3 to 1e-2 (log-uniform), critic or "
    "baseline steps 4 or 6, learning_rate_final 0.1 or 0.2, anneal_steps 60k or 100k; 12 "
    "environments x 32 steps or 8 whole episodes, hidden 32x32"
)
ROLLOUT = {"num_envs": 12, "num_steps": 32}
EPISODES = {"num_envs": 8}  # of agents that learn from whole ones
START = {
    "learning_rate": 4e-3,
    "critic_learning_rate": 8e-3,
    "estimator_learning_rate": 8e-3,
    "critic_steps": 6,
    "estimator_steps": 6,
    "learning_rate_final": 0.2,
    "anneal_steps": 60_000,
}


def draw(rng: np.random.Generator) -> dict:
    """A setting; values that an agent makes no use of do it no harm."""
    rate = float(10 ** rng.uniform(-3, -2))
    count = [4, 6][rng.integers(2)]
    return {
        "learning_rate": float(f"{10 ** rng.uniform(-3, -2):.2g}"),
        "critic_learning_rate": float(f"{rate:.2g}"),
        "estimator_learning_rate": float(f"{rate:.2g}"),
        "critic_steps": count,
        "estimator_steps": count,
        "learning_rate_final": [0.1, 0.2][rng.integers(2)],
        "anneal_steps": [60_000, 100_000][rng.integers(2)],
    }


def judge(env: str, agent: str, flags: dict, steps: int, seeds: str = SEEDS) -> dict:
    """What a setting came to."""
    import rlgrad
    from rlgrad.cards import resolve

    # One step after each gradient is what keeps a control variate apart from a baseline.
    config = resolve(env, agent).config
    once = config.estimator_steps == 1
    used = {k: v for k, v in flags.items() if not (once and k == "estimator_steps")}
    used |= EPISODES if config.signal == "return-to-go" else ROLLOUT
    with tempfile.TemporaryDirectory() as folder:
        run = rlgrad.train(
            env, agent, seeds=seeds, total_timesteps=steps, eval_episodes=1,
            log_dir=folder, quiet=True, log_freq=steps // 50, hidden=(32, 32), **used,
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


def load(path: Path) -> dict:
    """What is on record, read anew each time: agents may be tuned side by side."""
    return json.loads(path.read_text()) if path.exists() else {}


def show(what: str, row: dict) -> None:
    print(
        f"{what}: area {row['area']:.1f}, solved {row['solved']}, median {row['median_steps']}, "
        f"slowest {row['slowest']} {row['flags']}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--agents", default=AGENTS)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--steps", type=int, default=100_000)
    arguments = parser.parse_args()
    rng = np.random.default_rng(2000)
    settings = [START, *(draw(rng) for _ in range(arguments.trials - 1))]
    path = HERE / "results" / "tune.json"
    for agent in arguments.agents.split(","):
        began = time.process_time()
        key = f"{agent} on {arguments.env}"
        rows = load(path).get(key, {}).get("trials", [])
        for i, flags in enumerate(settings[len(rows) :], len(rows)):
            found = judge(arguments.env, agent, flags, arguments.steps)
            rows.append(row := {"trial": i, "flags": flags} | found)
            show(f"{agent} trial {i}", row)
        best = sorted(rows[1:], key=lambda row: -row["area"])[:FINALISTS]
        further = [
            row | judge(arguments.env, agent, row["flags"], arguments.steps, FURTHER)
            for row in (rows[0], *best)
        ]
        for row in further:
            show(f"{agent} trial {row['trial']} on further seeds", row)
        taken = max(further, key=lambda row: (row["solved"], row["area"]))
        print(f"{agent}: take trial {taken['trial']}: {taken['flags']}", flush=True)
        record = load(path) | {
            key: {
                "space": SPACE, "seeds": SEEDS, "further_seeds": FURTHER, "steps": arguments.steps,
                "trials": rows, "further": further, "taken": taken["trial"],
                "cpu_hours": round((time.process_time() - began) / 3600, 3),
            }
        }  # fmt: skip
        path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
