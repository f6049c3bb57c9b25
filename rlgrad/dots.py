"""Dots with intervals: one row per name, over one or several axes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import ceil, isfinite, isnan, log10
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from rlgrad.drawing import INK, ROW, Palette, blank, brief, number_axis, settle, styled
from rlgrad.stats import Interval

_PER_ROW = 3  # panels beside one another


def _limits(found: Collection[Interval], log: bool) -> tuple[float, float]:
    """Of the axis: all finite numbers (above 0 on a logarithmic one) and a margin."""
    numbers = [x for each in found for x in each if isfinite(x) and (x > 0 or not log)]
    low, high = min(numbers, default=1.0), max(numbers, default=1.0)
    if log:
        margin = max(0.06 * log10(high / low), 0.15)
        return low * 10**-margin, high * 10**margin
    margin = 0.07 * (high - low) or 0.1 * abs(high) or 1.0
    return low - margin, high + margin


def _dots(axes: Axes, rows: Mapping[str, tuple[Interval, dict[str, Any]]], log: bool) -> None:
    """A row per name, first on top; what lies outside the axis is an arrow at its edge."""
    low, high = _limits([found for found, _ in rows.values()], log)
    axes.set_xscale("log" if log else "linear")
    axes.set(xlim=(low, high), ylim=(len(rows) - 0.5, -0.5), yticks=range(len(rows)))
    axes.set_yticklabels([brief(name) for name in rows])
    for place, (found, look) in enumerate(rows.values()):
        if place % 2 == 0:
            axes.axhspan(place - 0.5, place + 0.5, color=INK, alpha=0.045, linewidth=0)
        if isnan(found.value):
            continue
        value, start, stop = np.clip(np.nan_to_num(found, nan=found.value), low, high)
        axes.plot([start, stop], [place, place], color=look["color"], linewidth=3.2, alpha=0.55)
        outside = "<" if value <= low else ">" if value >= high else ""
        axes.plot(value, place, **{**look, "marker": outside or look["marker"], "clip_on": False})
        if stop >= high and not outside:
            axes.plot(high, place, ">", color=look["color"], markersize=5, clip_on=False)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0, pad=9)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    number_axis(axes.xaxis)


def _look(palette: Palette, name: str, filled: bool = True) -> dict[str, Any]:
    colour = palette.colour(name)
    return {
        "color": colour, "marker": palette.marker(name), "markersize": 7, "linestyle": "none",
        "markeredgewidth": 1.6, "markerfacecolor": colour if filled else "none",
    }  # fmt: skip


def intervals(
    panels: Mapping[str, Mapping[str, Interval]],
    palette: Palette | None = None,
    log: Collection[str] = (),
) -> Figure:
    """Dots with intervals: a panel per statistic, a row per name; inf is an arrow at the edge.

    Args:
        panels: by statistic, then by name.
        palette: of the report.
        log: statistics with a logarithmic axis.
    """
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    palette = palette or Palette(names)
    across = min(len(panels), _PER_ROW)
    down = ceil(len(panels) / across)
    with styled():
        figure, grid = blank(down * (0.75 + ROW * len(names)), across, down)
        for at, axes in enumerate(grid.flat):
            if at >= len(panels):
                axes.set_visible(False)
                continue
            title, panel = list(panels.items())[at]
            _dots(axes, {n: (panel[n], _look(palette, n)) for n in names if n in panel},
                  title in log)  # fmt: skip
            axes.set_title(brief(title), pad=7)
            if at % across and list(panel) == names:
                axes.set_yticklabels([])
        settle(figure)
    return figure


def bars(
    rows: Mapping[str, Interval],
    xlabel: str,
    baseline: str | None = None,
    biased: Collection[str] = (),
    palette: Palette | None = None,
) -> Figure:
    """Positive numbers with intervals on a logarithmic axis, such as variances of estimators.

    Args:
        rows: by name, first on top; 0 is an arrow at the edge.
        xlabel: with the unit.
        baseline: the row whose number a vertical line marks.
        biased: rows that are drawn hollow.
        palette: of the report; by default all rows look alike.
    """
    palette = palette or Palette([])
    with styled():
        figure, ((axes,),) = blank(1.0 + ROW * len(rows))
        looks = {n: (found, _look(palette, n, n not in biased)) for n, found in rows.items()}
        _dots(axes, looks, log=True)
        axes.set_xlabel(xlabel)
        keys = []
        if baseline is not None:
            line: dict[str, Any] = {"color": INK, "linestyle": "--", "linewidth": 1, "alpha": 0.75}
            axes.axvline(rows[baseline].value, zorder=1, **line)
            keys.append(Line2D([], [], label=f"{brief(baseline)}, for reference", **line))
        if hollow := [n for n in rows if n in biased]:
            keys.append(Line2D([], [], label="biased", **looks[hollow[0]][1]))
        if keys:
            axes.legend(
                handles=keys, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False
            )
        settle(figure)
    return figure
