"""What a control variate does to the gradient's variance along training, and what it could do.

    python benchmarks/control_variate.py        # seeds 0-19, three environments; about ten minutes

For each environment and form of c: mean |u|^2 at the logits relative to the same rollouts without
c, on every rollout of training, before c is trained on it; as the mean of these ratios and as the
ratio of the means, which the first rollouts of an untrained critic dominate. Intervals are 95 %
bootstrap intervals over seeds.
For actor-critic, at frozen policies, ``rlgrad.lab.split`` sets the simulator back to visited states
and takes each action many times, so that E|u|^2 is split into what is left given state and action
(no c can touch it), the squared mean gradient at each state (it stays, too) and the rest, which the
best c removes; and the same for the best baseline of the state alone.
Writes benchmarks/results/control_variate.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path

import numpy as np
import torch

from rlgrad.cards import resolve
from rlgrad.lab.split import split
from rlgrad.learner import Learner
from rlgrad.options import Options, parse_seeds
from rlgrad.trainer import Trainer

HERE = Path(__file__).resolve().parent
STEPS = {"CartPole-v1": 100_000, "Acrobot-v1": 100_000, "rlgrad/DialProbe-v0": 20_000}
FORMS = {
    "none (actor-critic)": ("actor-critic", {}),
    "network": ("relax-network", {}),
    "network, 4 steps": ("relax-network", {"estimator_steps": 4}),
    "linear, relaxed": ("relax", {"form": "relaxed"}),
    "linear, exact sum": ("relax", {"form": "exact-sum"}),
}
# The same for all, whatever their cards were tuned to.
SETTINGS = {
    "learning_rate": 3e-3,
    "critic_learning_rate": 5e-3,
    "estimator_learning_rate": 3e-3,
    "learning_rate_final": 0.2,
    "anneal_steps": 60_000,
    "num_envs": 8,
    "num_steps": 32,
    "critic_steps": 4,
}
LAMBDAS = (0.8, 0.95, 1.0)
AT = (0.02, 0.1, 0.25, 0.5, 1.0)  # shares of training at which policies are frozen


def interval(x: np.ndarray) -> list[float]:
    """(mean, 95 % bootstrap bounds) over seeds."""
    rng = np.random.default_rng(0)
    means = x[rng.integers(0, len(x), (10_000, len(x)))].mean(1)
    return [float(x.mean()), *map(float, np.quantile(means, [0.025, 0.975]))]


def train(env: str, agent: str, flags: dict, seeds: list[int], splits_too: bool) -> dict:
    card = resolve(env, agent, None, {"total_timesteps": STEPS[env], **SETTINGS, **flags})
    trainer = Trainer(card, seeds, Options(quiet=True))
    batch = trainer.config.num_envs * trainer.length
    last = -(-STEPS[env] // batch)
    due = {max(1, round(share * last)): share for share in AT} if splits_too else {}
    rows, splits, spent = [], {}, 0.0
    while any(trainer.active):
        started = time.process_time()
        rows.append(trainer.step(measure=True))
        spent += time.process_time() - started
        if trainer.iteration in due:
            splits[due[trainer.iteration]] = decompose(trainer)
    solved = sorted(o.solved_at_step for o in trainer.outcomes if o.solved_at_step is not None)
    middle = len(seeds) // 2
    row = {
        "env": env,
        "solved": len(solved),
        "median_steps": solved[middle] if len(solved) > middle else None,
        "final_return": float(np.mean([o.mean_return for o in trainer.outcomes])),
        "cpu_seconds": spent,
    }
    if "gradient/variance_ratio" in rows[0]:
        ratio, square = (
            torch.stack([r[f"gradient/{tag}"] for r in rows]).double().numpy()
            for tag in ("variance_ratio", "square")
        )
        plain = square / np.maximum(ratio, 1e-30)
        row["mean_of_ratios"] = interval(ratio.mean(0))
        row["ratio_of_means"] = interval(square.sum(0) / plain.sum(0))
        row["tenths"] = [float(part.mean()) for part in np.array_split(ratio, 10)]
    trainer.close()
    return row | ({"splits": splits} if splits_too else {})


def decompose(trainer: Trainer, states: int = 32, copies: int = 16) -> dict[float, dict]:
    """Parts of E|u|^2 at the frozen policies, by lambda, as shares of the whole, over all seeds."""
    learners = [alone(trainer, i) for i in range(len(trainer.seeds))]
    return {factor: shares(trainer, learners, factor, states, copies) for factor in LAMBDAS}


def alone(trainer: Trainer, i: int) -> Learner:
    """One seed's learner."""
    lanes, seed = trainer.lanes, trainer.seeds[i]
    learner = Learner(trainer.config, lanes.features, lanes.actions.sizes, [seed], trainer.scale)
    rows = trainer.learner.state_dict().items()
    learner.load_state_dict({key: x[i : i + 1] for key, x in rows})
    return learner


def shares(
    trainer: Trainer, learners: list[Learner], factor: float, states: int, copies: int
) -> dict[str, float]:
    """Ratios of means over seeds, at one lambda."""
    config = dataclasses.replace(trainer.config, signal="gae", gae_lambda=factor)
    card, at = trainer.resolved.env, "logits"
    found = [
        split(each, card, config, states=states, copies=copies, seed=seed, at=at)
        for seed, each in zip(trainer.seeds, learners, strict=True)
    ]

    def mean(part: str) -> float:
        return float(np.mean([getattr(each, part).value.value for each in found]))

    whole, noise, signal = mean("square"), mean("trajectory"), mean("mean") + mean("state")
    return {
        "whole": whole,
        "noise": noise / whole,
        "signal": signal / whole,
        "floor": (noise + signal) / whole,
        "floor_state_baseline": 1 - mean("baseline") / whole,
        "perfect_critic": 1 - mean("value_baseline") / whole,
    }


def show(row: dict) -> None:
    def spelled(x: list[float] | None) -> str:
        return f"{x[0]:.3f} [{x[1]:.3f}, {x[2]:.3f}]" if x else "-"

    print(
        f"{row['env']:20s} {row['form']:20s} {spelled(row.get('mean_of_ratios')):>22s} "
        f"{spelled(row.get('ratio_of_means')):>22s} {row['solved']:3d} "
        f"{row['median_steps'] or '-':>7} {row['final_return']:7.1f} {row['cpu_seconds']:6.1f}",
        flush=True,
    )
    for share, by_factor in row.get("splits", {}).items():
        for factor, x in by_factor.items():
            print(
                f"    at {share:4.0%}, lambda {factor:4.2f}: noise {x['noise']:.3f}, "
                f"floor of any c {x['floor']:.3f}, of a state baseline "
                f"{x['floor_state_baseline']:.3f}, with a perfect critic {x['perfect_critic']:.3f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0-19", help="disjoint from those used for tuning")
    parser.add_argument("--envs", default=",".join(STEPS))
    parser.add_argument("--forms", default=";".join(FORMS), help="separated by ;")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    seeds, rows = parse_seeds(arguments.seeds), []
    forms = [form for form in FORMS if form in arguments.forms.split(";")]
    print(
        f"{'environment':20s} {'control variate':20s} {'mean of ratios':>22s} "
        f"{'ratio of means':>22s} {'solved':>3s} {'median':>6s} {'return':>6s} {'CPU-s':>6s}"
    )
    for env in arguments.envs.split(","):
        for form in forms:
            agent, flags = FORMS[form]
            row = {"form": form} | train(env, agent, flags, seeds, agent == "actor-critic")
            show(row)
            rows.append(row)
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    path = results / "control_variate.json"
    others = json.loads(path.read_text()) if path.exists() else []
    done = {(row["env"], row["form"]) for row in rows}
    rows = [row for row in others if (row["env"], row["form"]) not in done] + rows
    path.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
