"""The RELAX paper's CartPole result, faithful and with the exact sampler, the family beside it.

    python benchmarks/reproduce_relax.py                  # about 15 minutes of one core
    python benchmarks/reproduce_relax.py --plot-only      # table and picture of the recorded run

One episode an update, Monte-Carlo returns, two hidden layers of 10 ReLU units, gamma .99, entropy
.01, Adam with beta2 .99999; solved when 100 episodes in a row average 195 of 200. Step sizes come
from the paper's grid, on 5 seeds from 1000 on, fewest mean episodes to solve: that of the policy
and that of what is trained beside it each for the arms that are shown in the picture, one for both
for the rest of the family. Reported are seeds 0-19 at the chosen step sizes. A seed that is not
solved counts with the episodes that it had. Intervals are 95 % bootstrap intervals over seeds. At
some episodes the variance of the gradient is measured (relax_variance.py). Arms may be run one
after another, or side by side into files of their own (--arms, --json): what is recorded of other
arms stays, and --merge takes it over. Writes benchmarks/results/reproduce_relax.json and
docs/images/reproduce_relax.png.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from relax_protocol import ARMS, WINDOW, Study
from relax_variance import measured, parts

from rlgrad.bootstrap import bootstrap_indices
from rlgrad.options import parse_seeds
from rlgrad.stats import curve, kaplan_meier, median_time

HERE = Path(__file__).resolve().parent
RESULTS, IMAGES = HERE / "results", HERE.parent / "docs" / "images"
GRID = (0.01, 0.003, 0.001)
Rates = dict[str, list[tuple[float, float]]]
PAPER = {"a2c": [1152, 90], "relax": [472, 114], "ratio": 2.44}
RATIOS = (
    ("a2c-public", "relax-public"),
    ("a2c", "relax"),
    ("a2c", "relax-public"),
    ("a2c", "relax-state"),
    ("a2c-scaled", "relax"),
    ("a2c-scaled", "relax-state"),
    ("relax-state", "relax"),
    ("relax-public", "relax"),
)
SHOWN = ("a2c-public", "a2c", "a2c-scaled", "relax-public", "relax", "relax-state")


def settings(name: str) -> list[tuple[float, float]]:
    """The step sizes that an arm is searched over."""
    if name in SHOWN:
        return list(product(GRID, GRID))
    return [(rate, rate) for rate in GRID]


def episodes_to_solve(study: Study, name: str, most: int) -> tuple[np.ndarray, np.ndarray]:
    """(episodes, whether solved) of an arm's learners; ``most`` where they were not."""
    solved = study.solved[study.rows[name]]
    return np.where(solved > 0, solved, most).astype(float), solved > 0


def trained(
    what: str, rates: Rates, seeds: Sequence[int], episodes: int, watch: Any = None
) -> Study:
    """Learners of each arm at each of its step sizes, on each seed, in this order."""
    settings = {
        name: [(seed, *rate) for rate in each for seed in seeds] for name, each in rates.items()
    }
    study = Study(settings)

    def progress(number: int) -> None:
        if number % 100 == 0:
            print(f"{what}: {number} episodes, {(study.solved > 0).sum()} solved", flush=True)
        if watch is not None:
            watch(study, number)

    study.run(episodes, progress)
    return study


def judged(study: Study, rates: Rates, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(mean episodes to solve, seeds solved) of each setting; unsolved ones count as by now."""
    times, solved = episodes_to_solve(study, name, len(study.returns))
    shape = len(rates[name]), -1
    return times.reshape(shape).mean(1), solved.reshape(shape).sum(1)


def search(names: Sequence[str], seeds: list[int], episodes: int) -> dict[str, Any]:
    """The choice of step sizes, the same for every arm: fewest mean episodes to solve.

    An arm stops where none of its other settings can overtake any more.
    """
    rates = {name: settings(name) for name in names}

    def stop_decided(study: Study, number: int) -> None:
        for name in names:
            mean, solved = judged(study, rates, name)
            if solved[mean.argmin()] == len(seeds):
                study.idle[study.rows[name]] = True

    study, found = trained("search", rates, seeds, episodes, stop_decided), {}
    for name in names:
        mean, solved = judged(study, rates, name)
        trials = [
            {"rates": rate, "mean": float(m), "solved": int(s)}
            for rate, m, s in zip(rates[name], mean, solved, strict=True)
        ]
        found[name] = {"chosen": rates[name][int(mean.argmin())], "trials": trials}
        print(f"{name:20s} {trials}", flush=True)
    return found


class Measures:
    """Measures the variance of some arms' gradients at some episodes."""

    def __init__(self, at: Sequence[int], lanes: int, states: int) -> None:
        self.at, self.lanes, self.states = at, lanes, states
        self.rows: list[dict[str, Any]] = []

    def __call__(self, study: Study, number: int) -> None:
        """Before episode ``number``."""
        if number not in self.at:
            return
        for name in (each for each in SHOWN if each in study.groups):
            group = study.groups[name]
            row = {"arm": name, "episode": number, **measured(group, self.lanes, number)}
            row["solved"] = int((study.solved[study.rows[name]] > 0).sum())
            if name in ("a2c", "relax"):
                row["parts"] = parts(group, 4, self.states, 16)
            self.rows.append(row)


def learning(study: Study, name: str, episodes: int) -> dict[str, list[float]]:
    """Mean return of the last 100 episodes: interquartile mean over seeds, and its band."""
    got = study.returns[:, study.rows[name]]
    _, solved = episodes_to_solve(study, name, episodes)
    xs, ys = [], []
    for each in got.T:
        each = each[np.isfinite(each)]
        total = np.concatenate([[0.0], each.cumsum()])
        at = np.arange(1, len(each) + 1)
        first = np.maximum(at - WINDOW, 0)
        xs.append(at.astype(float))
        ys.append((total[at] - total[first]) / (at - first))
    grid = np.arange(20.0, len(got) + 1, 20.0)
    band = curve(xs, ys, grid, done=list(solved))
    named = {"x": band.x, "value": band.value, "low": band.low, "high": band.high}
    return {key: np.round(x, 1).tolist() for key, x in named.items()}


def row_of(study: Study, name: str, rates: Sequence[float], episodes: int) -> dict[str, Any]:
    """What is reported of an arm."""
    times, solved = episodes_to_solve(study, name, episodes)
    picks = bootstrap_indices([len(times)])[0]
    low, high = np.quantile(times[picks].mean(1), [0.025, 0.975])
    middle = median_time(times, solved)
    steps = np.nansum(study.returns[:, study.rows[name]], 0)  # +1 per step
    return {
        "arm": name,
        "label": ARMS[name].label,
        "rates": list(rates),
        "episodes": times.tolist(),
        "solved": solved.tolist(),
        "mean": [float(times.mean()), float(low), float(high)],
        "median": [None if np.isinf(x) else float(x) for x in middle],
        "env_steps": float(steps.mean()),
        "curve": learning(study, name, episodes),
    }


def ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean episodes of one arm over those of another; seeds of both resampled independently."""
    times = {row["arm"]: np.array(row["episodes"]) for row in rows}
    found = []
    for one, other in RATIOS:
        if one in times and other in times:
            first, second = times[one], times[other]
            a, b = (
                x[bootstrap_indices([len(x)], seed=seed)[0]].mean(1)
                for seed, x in enumerate((first, second))
            )
            low, high = np.quantile(a / b, [0.025, 0.975])
            value = [float(first.mean() / second.mean()), float(low), float(high)]
            found.append({"arms": [one, other], "ratio": value})
    return found


def show(results: dict[str, Any]) -> None:
    """The tables."""
    print(f"| {'arm':28s} | step sizes | solved | mean episodes [95 %] | median [95 %] |")
    for row in results["arms"]:
        mean = "{:.0f} [{:.0f}, {:.0f}]".format(*row["mean"])
        middle, low, high = ("-" if x is None else f"{x:.0f}" for x in row["median"])
        rates = ", ".join(f"{x:g}" for x in row["rates"][: ARMS[row["arm"]].rates])
        count = f"{sum(row['solved'])} of {len(row['solved'])}"
        print(f"| {row['label']:28s} | {rates} | {count} | {mean} | {middle} [{low}, {high}] |")
    for each in results["ratios"]:
        one, other = (ARMS[name].label for name in each["arms"])
        print("| {} / {} | {:.2f} [{:.2f}, {:.2f}] |".format(one, other, *each["ratio"]))
    for row in results["variance"]:
        found = {k: v for k, v in row.items() if k not in ("arm", "episode", "parts")}
        spelled = ", ".join(
            f"{k} {v[0]:.3f} [{v[1]:.3f}, {v[2]:.3f}]" if isinstance(v, list) else f"{k} {v:.3g}"
            for k, v in found.items()
        )
        print(f"{row['arm']} at {row['episode']}: {spelled}")
        if "parts" in row:
            print("    " + ", ".join(f"{k} {v:.3f}" for k, v in row["parts"].items()))


def plot(results: dict[str, Any], path: Path) -> None:
    """Learning curves, survival, and what is left of the variance."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4))
    rows = {row["arm"]: row for row in results["arms"]}
    for i, name in enumerate(each for each in SHOWN if each in rows):
        row, color = rows[name], f"C{i}"
        line = row["curve"]
        left.plot(line["x"], line["value"], color=color, label=row["label"])
        left.fill_between(line["x"], line["low"], line["high"], color=color, alpha=0.15, lw=0)
        x, share = kaplan_meier(np.array(row["episodes"]), np.array(row["solved"]))
        middle.step(x, share, where="post", color=color)
        points = [each for each in results["variance"] if each["arm"] == name]
        at = [each["episode"] for each in points]
        own = [
            each.get("mean V" if name == "a2c-public" else "V", each.get("own")) for each in points
        ]
        right.plot(at, [x[0] for x in own], "o-", color=color)
        if name == "relax":
            best = [each["fitted"][0] for each in points]
            right.plot(at, best, "k:", label="fitted to the frozen policy")
            right.legend(frameon=False, fontsize=8)
    left.legend(frameon=False, fontsize=8)
    left.set(xlabel="episodes", ylabel="mean return of 100 episodes", title="learning")
    middle.set(xlabel="episodes", ylabel="share not solved", title="to solve", ylim=(0, 1.02))
    right.set(xlabel="episodes", yscale="log", title="variance left by the own baseline or c")
    for axis in (left, middle, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Search, then train and measure on the reported seeds."""
    names = arguments.arms.split(",")
    tuning = parse_seeds(arguments.search_seeds)
    found = search(names, tuning, arguments.search_episodes)
    seeds, episodes = parse_seeds(arguments.seeds), arguments.episodes
    measures = Measures(arguments.at, arguments.lanes, arguments.states)
    rates = {name: [found[name]["chosen"]] for name in names}
    study = trained("reported seeds", rates, seeds, episodes, measures)
    return {
        "paper": PAPER, "seeds": seeds, "most_episodes": episodes,
        "search_seeds": arguments.search_seeds, "search_episodes": arguments.search_episodes,
        "search": found,
        "arms": [row_of(study, name, found[name]["chosen"], episodes) for name in names],
        "variance": measures.rows,
    }  # fmt: skip


def merged(results: dict[str, Any], paths: Sequence[Path]) -> dict[str, Any]:
    """With what was recorded of other arms, in the order of ``ARMS``."""
    for path in (each for each in paths if each.exists()):
        old = json.loads(path.read_text())
        new = set(results["search"])
        results["search"] = old["search"] | results["search"]
        for table in ("arms", "variance"):
            results[table] += [row for row in old[table] if row["arm"] not in new]
    for table in ("arms", "variance"):
        results[table].sort(key=lambda row: list(ARMS).index(row["arm"]))
    return results | {"ratios": ratios(results["arms"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--seeds", default="0-19")
    parser.add_argument("--episodes", type=int, default=1250, help="at most")
    parser.add_argument("--search-seeds", default="1000-1004")
    parser.add_argument("--search-episodes", type=int, default=600, help="at most")
    parser.add_argument("--at", type=int, nargs="+", default=[50, 150, 300])
    parser.add_argument("--lanes", type=int, default=128, help="episodes that variance is of")
    parser.add_argument("--states", type=int, default=64, help="that the variance is split in")
    parser.add_argument("--json", type=Path, default=RESULTS / "reproduce_relax.json")
    parser.add_argument("--picture", type=Path, default=IMAGES / "reproduce_relax.png")
    parser.add_argument("--merge", type=Path, nargs="+", default=[], help="files; trains nothing")
    parser.add_argument("--plot-only", action="store_true", help="show the recorded results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.plot_only:
        results = json.loads(arguments.json.read_text())
    else:
        first, *others = arguments.merge or [None]
        fresh = json.loads(first.read_text()) if first else run(arguments)
        results = merged(fresh, [*others, arguments.json])
        arguments.json.write_text(json.dumps(results) + "\n")
    show(results)
    plot(results, arguments.picture)


if __name__ == "__main__":
    main()
