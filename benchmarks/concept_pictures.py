"""The pictures of docs/concepts.md, from real runs: clouds of gradients, an animation, learning.

    python benchmarks/concept_pictures.py [--only clouds,animation,dial,cartpole]

Prints the figures that the page quotes. All seeds are 1000 and above.
"""

from __future__ import annotations

import argparse
import io
import math
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

import rlgrad
from rlgrad.drawing import COLOURS, INK, blank, png, settle, styled
from rlgrad.lab import freeze
from rlgrad.lab.measuring import Lab, Settings
from rlgrad.lab.members import members
from rlgrad.plots import Palette, curves
from rlgrad.stats import Curve

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
DIAL = "rlgrad/DialProbe-v0"
EPISODES = 128  # whose gradients are averaged in one point
# Rows of the laboratory to what the picture calls them.
CLOUDS = {
    "reinforce": "reinforce: no baseline",
    "constant": "constant baseline",
    "learned": "learned baseline",
    "relax-linear": "relax: control variate",
    "all-action-control": "all actions, exact sum",
    "straight-through": "straight-through: biased",
}
DIALLED = ("reinforce", "constant", "relax-linear", "all-action-control")
AGENTS = ("reinforce", "reinforce-constant", "reinforce-learned", "actor-critic", "relax")


class Clouds(NamedTuple):
    """Gradients of one policy, in a plane through the exact one, which is at (1, 0)."""

    points: dict[str, np.ndarray]
    """By estimator, ``[512, 2]``."""
    variance: dict[str, float]
    """Total variance of a point, in squared lengths of the exact gradient."""


@torch.no_grad()
def exact(learner: Any) -> Tensor:
    """The gradient of the expected reward at the dial ``[P]``, on a fine grid of angles."""
    angle = 2 * math.pi * (torch.arange(8192) + 0.5) / 8192
    observation = torch.stack([angle.cos(), angle.sin()], -1).unsqueeze(0)
    p = learner.logits(observation)[0, :, 0].softmax(-1)
    q = (angle.unsqueeze(1) - 2 * math.pi * torch.arange(16) / 16).cos() / learner.value_scale
    u = p * (q - (p * q).sum(1, keepdim=True)) / len(angle)
    return learner.policy.trace(learner.see(observation)).parameters(u.unsqueeze(0))[0]


def clouds() -> Clouds:
    """Train a policy for a moment, freeze it, and gather each estimator's gradients there."""
    with tempfile.TemporaryDirectory() as folder:
        run = rlgrad.train(
            DIAL, "reinforce-learned", seeds=[1000], total_timesteps=1_500,
            max_episode_steps=1, eval_episodes=1,
            log_dir=folder, quiet=True,
        )  # fmt: skip
        lab = Lab(freeze.stored(run), Settings(states=512 * EPISODES), lambda line: None)
    rows, _ = members(lab.frozen, list(CLOUDS))
    chosen = [r for r in rows if not r.variant and r.trained is not False and r.estimator in CLOUDS]
    found = {row.estimator: lab.gathered(lab.built(row)[0], lab.data)[0].means() for row in chosen}
    truth = exact(lab.frozen.learner)
    size = truth.norm()
    error = (found["all-action-control"].mean(0) - truth).norm() / size
    print(f"exact gradient: |mean of all-action-control - it| / |it| = {float(error):.3f}")
    first = truth / size
    rest = found["reinforce"] - truth
    rest = rest - (rest @ first).unsqueeze(1) * first
    second = torch.linalg.svd(rest, full_matrices=False)[2][0]
    plane = torch.stack([first, second], 1) / size
    points = {name: (found[name] @ plane).numpy() for name in CLOUDS}
    variance = {name: float(found[name].var(0).sum() / size**2) for name in CLOUDS}
    for name in CLOUDS:
        x = points[name].mean(0)
        ratio = variance[name] / variance["reinforce"]
        print(f"{name:20s} mean ({x[0]:.2f}, {x[1]:+.2f})  variance x {ratio:.3f}")
    return Clouds(points, variance)


def scattered(axes: Any, points: np.ndarray, colour: str, reach: float) -> None:
    """Points, the origin where the parameters are, and the exact gradient as an arrow."""
    axes.plot(*points.T, ".", color=colour, markersize=3.5, alpha=0.55, markeredgewidth=0)
    axes.annotate(
        "", (1, 0), (0, 0), arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 1.6}, zorder=5
    )
    axes.plot(0, 0, "o", color=INK, markersize=3.5)
    axes.set(xlim=(1 - reach, 1 + reach), ylim=(-reach, reach), aspect="equal")


def cloud_picture(found: Clouds) -> bytes:
    """Six clouds at one scale."""
    reach = float(np.quantile(np.abs(found.points["reinforce"] - [1, 0]), 0.99))
    with styled():
        figure, grid = blank(4.9, 3, 2, sharex=True, sharey=True)
        for axes, (name, title), colour in zip(grid.flat, CLOUDS.items(), COLOURS, strict=False):
            scattered(axes, found.points[name], colour, reach)
            mean = found.points[name].mean(0)
            axes.plot(*mean, "x", color=INK, markersize=7, markeredgewidth=1.6, zorder=6)
            ratio = found.variance[name] / found.variance["reinforce"]
            axes.set_title(title, fontsize=9.5)
            axes.text(0.03, 0.03, f"variance x {ratio:.2g}", transform=axes.transAxes, fontsize=9)
        figure.supxlabel("along the exact gradient (its length = 1)", fontsize=9.5)
        figure.supylabel("across", fontsize=9.5)
        return png(figure)


def animation(found: Clouds) -> list[Image.Image]:
    """The running mean of ever more updates, for three estimators."""
    names = ["reinforce", "learned", "all-action-control"]
    frames = []
    for count in np.unique(np.geomspace(1, 512, 28).astype(int)):
        with styled():
            figure, grid = blank(2.6, 3, 1, sharex=True, sharey=True)
            for axes, name in zip(grid.flat, names, strict=True):
                colour = COLOURS[list(CLOUDS).index(name)]
                points = found.points[name][:count]
                scattered(axes, points, colour, 4.0)
                means = points.cumsum(0) / np.arange(1, count + 1)[:, None]
                axes.plot(*means.T, "-", color=INK, linewidth=1.1, alpha=0.8, zorder=6)
                axes.plot(*means[-1], "o", color=INK, markersize=6, zorder=7)
                axes.set_title(CLOUDS[name], fontsize=9)
            plural = "update" if count == 1 else "updates"
            figure.supxlabel(f"mean of {count} {plural}, along the exact gradient", fontsize=9)
            figure.supylabel("across", fontsize=9)
            settle(figure)
            frames.append(Image.open(io.BytesIO(png(figure, 110))).convert("RGB"))
    return [frame.quantize(32, dither=Image.Dither.NONE) for frame in frames]


def over_seeds(runs: list[dict[str, Any]], tag: str, bins: np.ndarray) -> Curve:
    """Median of a logged number over seeds, with quartiles, between edges of env steps."""
    seeds = sorted({row["seed"] for row in runs})
    table = np.full((len(seeds), len(bins) - 1), np.nan)
    for i, seed in enumerate(seeds):
        rows = [(r["step"], r[tag]) for r in runs if r["seed"] == seed and r.get(tag) is not None]
        step, value = np.array(rows, dtype=float).T
        place = np.digitize(step, bins) - 1
        for j in np.unique(place[(place >= 0) & (place < len(bins) - 1)]):
            table[i, j] = np.median(value[place == j])
    low, middle, high = np.nanquantile(table, [0.25, 0.5, 0.75], axis=0)
    return Curve((bins[1:] + bins[:-1]) / 2, middle, low, high, (~np.isnan(table)).sum(0))


def dial() -> tuple[Figure, Figure]:
    """Return and variance of the dial's agents, which differ in nothing but the estimator."""
    returns, variance = {}, {}
    bins = np.arange(0, 4_001, 200)
    with tempfile.TemporaryDirectory() as folder:
        for estimator in DIALLED:
            run = rlgrad.train(
                DIAL, "reinforce", estimator=estimator, seeds="1000-1009", total_timesteps=4_000,
                max_episode_steps=1, num_envs=8, learning_rate=0.01, learning_rate_final=1.0,
                value_scale=1.0, eval_episodes=1, log_dir=folder, quiet=True, log_freq=1,
            )  # fmt: skip
            record = run.metrics()
            returns[estimator] = over_seeds(record, "rollout/ep_rew_mean", bins)
            variance[estimator] = over_seeds(record, "gradient/variance", bins)
            last, early = returns[estimator].value[-1], variance[estimator].value[0]
            nats = over_seeds(record, "train/entropy", bins).value
            print(
                f"{estimator:18s} variance at first {early:.2f}, mean reward at last {last:.3f}, "
                f"entropy after 1,000 steps {nats[4]:.2f} nats, at last {nats[-1]:.2f}"
            )
    palette, x = Palette(list(DIALLED)), "env steps (DialProbe-v0, 10 seeds: median, quartiles)"
    return (
        curves(returns, x, "mean reward of 100 episodes", {"best": 1.0}, palette=palette),
        curves(variance, x, "variance of an update's gradient", log=True, palette=palette),
    )


def cartpole() -> Figure:
    """Returns along training on CartPole-v1, ten seeds of each agent as it is shipped."""
    returns, bins = {}, np.arange(0, 62_000, 3_000)
    with tempfile.TemporaryDirectory() as folder:
        for name in AGENTS:
            run = rlgrad.train(
                "CartPole-v1", name, seeds="1000-1009", total_timesteps=60_000, eval_episodes=1,
                log_dir=folder, quiet=True, log_freq=1,
            )  # fmt: skip
            returns[name] = over_seeds(run.metrics(), "rollout/ep_rew_mean", bins)
            print(f"{name:18s} return at last {returns[name].value[-1]:.0f}")
    x = "env steps (CartPole-v1, 10 seeds: median, quartiles)"
    return curves(returns, x, "return of the last 100 episodes", palette=Palette(list(returns)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="clouds,animation,dial,cartpole")
    wanted = parser.parse_args().only.split(",")
    torch.set_num_threads(1)
    if {"clouds", "animation"} & set(wanted):
        found = clouds()
        (IMAGES / "clouds.png").write_bytes(cloud_picture(found))
    if "animation" in wanted:
        first, *rest = animation(found)
        first.save(
            IMAGES / "averaging.gif", save_all=True, append_images=rest, loop=0, optimize=True,
            duration=[300] * len(rest) + [3000],
        )  # fmt: skip
    if "dial" in wanted:
        for name, figure in zip(("dial-return", "dial-variance"), dial(), strict=True):
            (IMAGES / f"{name}.png").write_bytes(png(figure, 130))
    if "cartpole" in wanted:
        (IMAGES / "cartpole-return.png").write_bytes(png(cartpole(), 130))


if __name__ == "__main__":
    main()
