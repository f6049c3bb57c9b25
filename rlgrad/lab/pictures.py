"""Figures of measured estimators."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rlgrad.lab.rows import Measurements
from rlgrad.plots import bars, curves, stacked
from rlgrad.stats import Curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_LINES = 8


def labels_shown(table: Measurements) -> list[str]:
    """Rows worth drawing: an untrained one is the baseline again."""
    return [row.label for row in table.rows if row.trained is not False]


def bars_of(table: Measurements) -> Figure:
    """Variance relative to the baseline's, with intervals; biased estimators hollow."""
    chosen = [row for row in table.rows if row.trained is not False]
    rows = {row.label: row.ratio for row in chosen}
    biased = [row.label for row in chosen if not row.unbiased or row.found_biased]
    return bars(rows, "variance / that of reinforce", table.baseline.label, biased)


def along(table: Measurements) -> Figure:
    """Ratios over training, of the unbiased estimators of least variance at the end."""
    every = [*table.history, table]
    able = [row for row in table.rows if row.unbiased and row.trained is not False]
    lines = {}
    for row in able[:MOST_LINES]:
        found = [(t.step, r.ratio) for t in every for r in t.rows if r.label == row.label]
        x = np.array([step for step, _ in found], dtype=np.float64)
        value, low, high = np.array([ratio for _, ratio in found]).T
        seeds = np.ones(len(found), dtype=np.int64)
        lines[row.label] = Curve(x, value, low, high, seeds)
    return curves(lines, "env steps of training", "variance / that of reinforce", log=True)


def split_of(table: Measurements) -> Figure | None:
    """The split of the variance, over training where there is a history."""
    rows = {}
    for each in (*table.history, table):
        if each.split is not None:
            found = each.split
            rows[f"step {each.step:,}"] = {
                "action": found.action.share.value,
                "trajectory": found.trajectory.share.value,
                "state": found.state.share.value,
            }
    return stacked(rows, "share of the variance of one row's term") if rows else None


def figures(table: Measurements) -> dict[str, Figure]:
    """All figures by name."""
    found = {"variance": bars_of(table)}
    if table.history:
        found["along"] = along(table)
    split = split_of(table)
    return found | ({} if split is None else {"split": split})
