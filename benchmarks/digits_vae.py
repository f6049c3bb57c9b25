"""The bound that each estimator reaches in equal steps on the VAE of examples/discrete_vae.py.

    python benchmarks/digits_vae.py [--jobs 2]          # needs scikit-learn
    python benchmarks/digits_vae.py --plot-only         # table and picture of the recorded run

32 Bernoulli latents, 1,000 steps of 64 images. Every estimator gets the same budget of tuning: the
learning rate of the VAE from the same list, on seeds 1000 and 1001; the reported bound is on the
training images, in nats, mean of seeds 0 to 4 with a 95 % interval (Student's t). Parameters of an
estimator (baseline, eta, tau, control variate) learn by Adam with rate 0.01 throughout.
Writes benchmarks/results/digits_vae.json and docs/images/digits_vae.png.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "examples"))
RATES = (0.001, 0.003, 0.01, 0.03)
TUNING_SEEDS, SEEDS = (1000, 1001), (0, 1, 2, 3, 4)
T_975 = 2.776  # Student's t of 4 degrees of freedom
SHAPE = (32, 2)


def curve(job: tuple[str, float, int, int]) -> list[tuple[int, float]]:
    """One training run: ``[(step, bound), ...]``."""
    import torch
    from discrete_vae import train

    torch.set_num_threads(1)
    name, rate, steps, seed = job
    return train(name, SHAPE, steps, seed, rate=rate)


def measure(names: list[str], steps: int, jobs: int) -> list[dict]:
    """Tune, then train on the reported seeds: a row per estimator, best first."""
    with ProcessPoolExecutor(jobs) as pool:
        tuning = [(n, rate, steps, seed) for n in names for rate in RATES for seed in TUNING_SEEDS]
        reached = dict(zip(tuning, (c[-1][1] for c in pool.map(curve, tuning)), strict=True))
        tuned = {
            name: {
                rate: statistics.fmean(reached[name, rate, steps, seed] for seed in TUNING_SEEDS)
                for rate in RATES
            }
            for name in names
        }
        best = {name: max(rates, key=rates.__getitem__) for name, rates in tuned.items()}
        final = [(name, best[name], steps, seed) for name in names for seed in SEEDS]
        curves = dict(zip(final, pool.map(curve, final), strict=True))
    rows = []
    for name in names:
        own = [curves[name, best[name], steps, seed] for seed in SEEDS]
        bounds = [each[-1][1] for each in own]
        means = [
            statistics.fmean(bound for _, bound in points) for points in zip(*own, strict=True)
        ]
        rows.append(
            {
                "estimator": name,
                "rate": best[name],
                "tuning": {str(rate): bound for rate, bound in tuned[name].items()},
                "bounds": bounds,
                "mean": statistics.fmean(bounds),
                "interval": T_975 * statistics.stdev(bounds) / len(bounds) ** 0.5,
                "curve": list(zip(dict(own[0]), means, strict=True)),
            }
        )
    return sorted(rows, key=lambda row: -row["mean"])


def show(rows: list[dict]) -> None:
    print(f"{'estimator':18s} {'rate':>6s} {'bound, nats':>12s} {'95 %':>7s}")
    for row in rows:
        print(
            f"{row['estimator']:18s} {row['rate']:6g} {row['mean']:12.2f} ±{row['interval']:6.2f}"
        )


def plot(rows: list[dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.4), width_ratios=(1, 1.2))
    for i, row in enumerate(rows):  # best first, from the top in both halves
        color = f"C{i}"
        left.plot(*zip(*row["curve"], strict=True), color=color)
        right.errorbar(row["mean"], -i, xerr=row["interval"], fmt="o", color=color, capsize=3)
    left.set(xlabel="steps", ylabel="training bound, nats", title="mean of 5 seeds")
    right.set(xlabel="training bound, nats", title="after equal steps, 95 % interval")
    right.set_yticks([-i for i in range(len(rows))], [row["estimator"] for row in rows])
    for i, label in enumerate(right.get_yticklabels()):
        label.set_color(f"C{i}")
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main() -> None:
    from discrete_vae import ESTIMATORS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--estimators", default=",".join(ESTIMATORS))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=1, help="training runs at a time")
    parser.add_argument("--plot-only", action="store_true", help="draw the recorded results")
    arguments = parser.parse_args()
    recorded = HERE / "results" / "digits_vae.json"
    if arguments.plot_only:
        rows = json.loads(recorded.read_text())
    else:
        rows = measure(arguments.estimators.split(","), arguments.steps, arguments.jobs)
        recorded.write_text(json.dumps(rows, indent=1) + "\n")
    show(rows)
    plot(rows, HERE.parent / "docs" / "images" / "digits_vae.png")


if __name__ == "__main__":
    main()
