"""A picture of an agent's trials: their learning curves, and the best area so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import MaxNLocator

from rlgrad.drawing import COLOURS, INK, blank, number_axis, settle, styled
from rlgrad.tuning.records import Tuned

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BEST, _FIRST = COLOURS[0], COLOURS[1]


def picture(tuned: Tuned) -> Figure:
    """Left: the curve of every trial. Right: area by trial, and the best so far.

    Args:
        tuned: the trials.
    """
    with styled():
        figure, ((left, right),) = blank(3.4, columns=2)
        _curves(left, tuned)
        _areas(right, tuned)
        figure.suptitle(f"{tuned.agent} on {tuned.env}", fontsize=10, fontweight="bold")
        settle(figure)
    return figure


def _curves(axes: Axes, tuned: Tuned) -> None:
    for trial in reversed(tuned.ranked):
        x, y = zip(*trial.curve, strict=True)
        look = {"color": INK, "linewidth": 0.9, "alpha": 0.3}
        if trial is tuned.best:
            look = {"color": _BEST, "linewidth": 2.0, "label": f"best, trial {trial.number}"}
        elif trial.number == 0:
            look = {"color": _FIRST, "linewidth": 1.6, "label": "trial 0, the card before"}
        axes.plot(x, y, **look)  # type: ignore[arg-type]
    axes.set(xlabel="env steps per seed", ylabel="return, mean over seeds")
    axes.set_xlim(left=0)
    number_axis(axes.xaxis)
    axes.legend(loc="best", frameon=False, fontsize=8)


def _areas(axes: Axes, tuned: Tuned) -> None:
    whole = [trial for trial in tuned.trials if not trial.pruned]
    axes.plot([t.number for t in whole], [t.area for t in whole], ".", color=INK, label="area")
    best = np.maximum.accumulate([trial.area for trial in whole])
    axes.step([t.number for t in whole], best, where="post", color=_BEST, label="best so far")
    given_up = [trial for trial in tuned.trials if trial.pruned]
    if given_up:
        x, y = [t.number for t in given_up], [t.area for t in given_up]
        axes.plot(x, y, "x", color=INK, alpha=0.5, markersize=5, label="given up")
    axes.set(xlabel="trial", ylabel="area under the learning curve")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="best", frameon=False, fontsize=8)
