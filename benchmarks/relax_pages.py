"""What is reported of the reproduction: rows, ratios, tables and the picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from relax_arms import ARMS
from relax_protocol import WINDOW, Study

from rlgrad.bootstrap import bootstrap_indices
from rlgrad.stats import curve, kaplan_meier, median_time

RATIOS = (
    ("a2c-public", "relax-public"),
    ("a2c", "relax"),
    ("a2c", "relax-public"),
    ("a2c", "relax-state"),
    ("a2c-scaled", "relax"),
    ("a2c-scaled", "relax-state"),
    ("relax-state", "relax"),
    ("relax", "relax-public"),
)
SHOWN = ("a2c-public", "a2c", "a2c-scaled", "relax-public", "relax", "relax-state")


def episodes_to_solve(study: Study, name: str, most: int) -> tuple[np.ndarray, np.ndarray]:
    """(episodes, whether solved) of an arm's learners; ``most`` where they were not."""
    solved = study.solved[study.rows[name]]
    return np.where(solved > 0, solved, most).astype(float), solved > 0


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
    for row in [*results["arms"], *results["equal"]]:
        mean = "{:.0f} [{:.0f}, {:.0f}]".format(*row["mean"])
        middle, low, high = ("-" if x is None else f"{x:.0f}" for x in row["median"])
        rates = ", ".join(f"{x:g}" for x in row["rates"][: ARMS[row["arm"]].rates])
        count = f"{sum(row['solved'])} of {len(row['solved'])}"
        print(f"| {row['label']:28s} | {rates} | {count} | {mean} | {middle} [{low}, {high}] |")
    for title in ("ratios", "equal_ratios"):
        print(title)
        for each in results[title]:
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
    right.set(xlabel="episodes", yscale="log", title="what the own baseline or c leaves")
    right.set(ylabel="variance / variance without a baseline")
    for axis in (left, middle, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
