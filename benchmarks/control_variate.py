"""What a control variate does to the gradient's variance along training, and what it could do.

    python benchmarks/control_variate.py        # seeds 0-19, three environments; about ten minutes

For each environment and form of c: mean |u|^2 at the logits relative to the same rollouts without
c, on every rollout of training, before c is trained on it; as the mean of these ratios and as the
ratio of the means, which the first rollouts of an untrained critic dominate. Intervals are 95 %
bootstrap intervals over seeds.
For actor-critic, at frozen policies: copies of the simulator are set to states of a rollout, each
action is taken many times, and E|u|^2 is split into what is left given state and action (no c can
touch it), the squared mean gradient at each state (it stays, too) and the rest, which the best c
removes; and the same for the best baseline of the state alone.
Writes benchmarks/results/control_variate.json.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rlgrad.cards import resolve
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
LAMBDAS = (0.0, 0.5, 0.8, 0.95, 1.0)
AT = (0.02, 0.1, 0.25, 0.5, 1.0)  # shares of training at which policies are frozen


def interval(x: np.ndarray) -> list[float]:
    """(mean, 95 % bootstrap bounds) over seeds."""
    rng = np.random.default_rng(0)
    means = x[rng.integers(0, len(x), (10_000, len(x)))].mean(1)
    return [float(x.mean()), *map(float, np.quantile(means, [0.025, 0.975]))]


def train(env: str, agent: str, flags: dict, seeds: list[int], split: bool) -> dict:
    card = resolve(env, agent, None, {"total_timesteps": STEPS[env], **flags})
    trainer = Trainer(card, seeds, Options(quiet=True))
    batch = trainer.config.num_envs * trainer.length
    last = -(-STEPS[env] // batch)
    due = {max(1, round(share * last)): share for share in AT} if split else {}
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
    return row | ({"splits": splits} if split else {})


@torch.no_grad()
def decompose(trainer: Trainer, states: int = 32, copies: int = 16) -> dict[float, dict]:
    """Parts of E|u|^2 at the frozen policies, by lambda, as shares of the whole."""
    learner, config, env = trainer.learner, trainer.config, trainer.lanes.env
    S, N, T = len(trainer.seeds), config.num_envs, trainer.length
    g = torch.Generator().manual_seed(0)

    def seen(state: Tensor) -> Tensor:
        return torch.as_tensor(env.observe(torch, state)).view(S, len(state) // S, -1)

    def act(state: Tensor) -> Tensor:
        logits = learner.logits(seen(state))[..., 0, :].flatten(0, 1)
        return (logits - torch.empty_like(logits).exponential_(generator=g).log()).argmax(-1)

    def value(state: Tensor) -> Tensor:
        return learner.critic(learner.see(seen(state))).reshape(-1)

    # States of one fresh rollout, with the steps that are left of it.
    state, elapsed, visited = env.state.clone(), env.elapsed.clone(), []
    for _ in range(T):
        visited.append((state, elapsed))
        state, _, ended = env.dynamics(state, act(state))
        elapsed = elapsed + 1
        ended = ended | (elapsed >= env._limit)
        start = env.initial(torch.rand(S * N, env.noise_per_reset, generator=g).to(state))
        state = torch.where(ended.unsqueeze(1), start, state)
        elapsed = torch.where(ended, 0, elapsed)
    t, n = (torch.randint(0, high, (S, states), generator=g) for high in (T, N))
    lane = torch.arange(S).unsqueeze(1) * N + n
    state, elapsed = (torch.stack(each)[t, lane] for each in zip(*visited, strict=True))
    p = learner.logits(seen(state.flatten(0, 1)))[..., 0, :].softmax(-1)
    shape = (S, states, p.shape[-1], copies)

    def branched(x: Tensor) -> Tensor:
        x = x.view(S, states, 1, 1, *x.shape[2:])
        return x.expand(*shape, *x.shape[4:]).flatten(0, 3)

    action = (
        branched(torch.zeros_like(t))
        + torch.arange(shape[2]).view(1, 1, -1, 1).expand(shape).flatten()
    )
    credit = credits(
        trainer, branched(state), branched(elapsed), branched(T - t), action, act, value
    )
    return {factor: parts(p, x.view(shape)) for factor, x in credit.items()}


def credits(trainer, state, elapsed, left, action, act, value) -> dict[float, Tensor]:
    """The generalised advantage estimate of each copy's first action, by lambda."""
    env, gamma = trainer.lanes.env, trainer.config.gamma
    scale = trainer.learner.value_scale.expand(-1, len(state) // len(trainer.seeds)).flatten()
    alive = torch.ones(len(state), dtype=torch.bool)
    total = {factor: torch.zeros(len(state)) for factor in LAMBDAS}
    now, k = value(state), 0
    while alive.any():
        after, reward, terminated = env.dynamics(state, action)
        then = value(after)
        delta = reward / scale + gamma * torch.where(terminated, 0.0, then) - now
        for factor in LAMBDAS:
            total[factor] += torch.where(alive, (gamma * factor) ** k * delta, 0.0)
        k += 1
        alive = alive & ~terminated & (elapsed + k < env._limit) & (left > k)
        state = torch.where(alive.unsqueeze(1), after, state)
        now, action = torch.where(alive, then, now), act(state)
    return total


def parts(p: Tensor, credit: Tensor) -> dict[str, float]:
    """Unbiased estimates from copies ``[S, states, A, copies]`` of the credit."""
    q, noise = credit.mean(-1), credit.var(-1)
    error = noise / credit.shape[-1]  # of q, as a variance
    size = (torch.eye(p.shape[-1]) - p.unsqueeze(2)).square().sum(-1)  # |s_a|^2
    w = p * size

    def centred(share: Tensor) -> Tensor:
        """Sum_a w (q - share.q)^2, corrected for the errors of q."""
        gap = (q - (share * q).sum(-1, keepdim=True)) ** 2
        off = error * (1 - 2 * share) + (share**2 * error).sum(-1, keepdim=True)
        return (w * (gap - off)).sum(-1)

    mean = (p * q).sum(-1, keepdim=True)
    gap = (p * (q - mean)) ** 2
    off = p**2 * (error * (1 - 2 * p) + (p**2 * error).sum(-1, keepdim=True))
    left, signal = (w * noise).sum(-1).mean(), (gap - off).sum(-1).mean()
    whole = (w * (q**2 - error + noise)).sum(-1).mean()
    best = w / w.sum(-1, keepdim=True).clamp(min=1e-30)
    return {
        "whole": float(whole),
        "noise": float(left / whole),
        "signal": float(signal / whole),
        "floor": float((left + signal) / whole),
        "floor_state_baseline": float((left + centred(best).mean()) / whole),
        "perfect_critic": float((left + centred(p).mean()) / whole),
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
    for share, split in row.get("splits", {}).items():
        for factor, x in split.items():
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
