"""Figures of a report: curves, intervals, comparisons, times to solve, variances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from rlgrad.bootstrap import Floats
from rlgrad.dots import bars, intervals
from rlgrad.drawing import (
    INK,
    ROW,
    End,
    Palette,
    blank,
    brief,
    label_ends,
    number_axis,
    png,
    settle,
    styled,
    svg,
)
from rlgrad.stats import Booleans, Curve, Interval, kaplan_meier

__all__ = [
    "Palette", "bars", "curves", "improvement", "intervals", "png", "stacked", "survival", "svg",
]  # fmt: skip

_BETTER, _WORSE = "#2e73db", "#d9730d"


def _percent(share: float, _: Any = None) -> str:
    return f"{100 * share:.0f} %"


def _lines_height(names: int) -> float:
    return max(3.3, 0.9 + 0.19 * names)


def curves(
    lines: Mapping[str, Curve],
    xlabel: str,
    ylabel: str,
    hlines: Mapping[str, float] | None = None,
    log: bool = False,
    log_x: bool = False,
    palette: Palette | None = None,
) -> Figure:
    """Learning curves with their bands, each named at its end.

    Args:
        lines: by name.
        xlabel: with the unit.
        ylabel: with the unit.
        hlines: heights to mark, by label.
        log: whether the vertical axis is logarithmic.
        log_x: whether the horizontal one is.
        palette: of the report.
    """
    palette = palette or Palette(list(lines))
    hlines = hlines or {}
    with styled():
        figure, ((axes,),) = blank(_lines_height(len(lines) + len(hlines)))
        ends = []
        for name, line in lines.items():
            look = {"color": palette.colour(name), "linestyle": palette.dashes(name)}
            axes.fill_between(line.x, line.low, line.high, color=look["color"], alpha=0.17, lw=0)
            axes.plot(line.x, line.value, linewidth=1.8, **look)
            if (there := np.flatnonzero(np.isfinite(line.value))).size:
                at = there[-1]
                axes.plot(line.x[at], line.value[at], ".", color=look["color"], markersize=7)
                ends.append(End(line.x[at], line.value[at], name, look["color"]))
        axes.set(xlabel=xlabel, ylabel=ylabel, xscale="log" if log_x else "linear")
        axes.set_yscale("log" if log else "linear")
        axes.margins(x=0.01, y=0.04)
        if not log_x:
            axes.set_xlim(left=0)
        for label, height in hlines.items():
            axes.axhline(height, color=INK, linewidth=1, linestyle=":", alpha=0.7)
            ends.append(End(axes.get_xlim()[1], height, label, INK))
        number_axis(axes.xaxis)
        number_axis(axes.yaxis)
        label_ends(axes, ends)
    return figure


def survival(
    runs: Mapping[str, tuple[Floats, Booleans]],
    xlabel: str,
    palette: Palette | None = None,
    end: float | None = None,
) -> Figure:
    """Share of seeds solved by a time (Kaplan-Meier); a bar marks where a seed stopped unsolved.

    Args:
        runs: by name, the times of its seeds and whether each was solved then.
        xlabel: with the unit.
        palette: of the report.
        end: up to where lines are drawn; by default the last time.
    """
    palette = palette or Palette(list(runs))
    end = end or max((float(times.max()) for times, _ in runs.values()), default=1.0)
    with styled():
        figure, ((axes,),) = blank(_lines_height(len(runs)))
        ends = []
        for name, (times, observed) in runs.items():
            colour = palette.colour(name)
            at, left = kaplan_meier(times, observed)
            share = 1 - left
            last = end if observed.all() else float(at[-1])
            axes.step(
                [*at, last], [*share, share[-1]], where="post", color=colour, linewidth=1.8,
                linestyle=palette.dashes(name),
            )  # fmt: skip
            stopped = times[~observed]
            heights = share[np.searchsorted(at, stopped)]
            axes.plot(stopped, heights, "|", color=colour, markersize=9, markeredgewidth=1.6)
            text = f"{brief(name, 18)} {int(observed.sum())}/{len(observed)}"
            ends.append(End(last, float(share[-1]), text, colour))
        axes.set(xlabel=xlabel, ylabel="seeds solved", ylim=(-0.03, 1.03), xlim=(0, end * 1.01))
        axes.yaxis.set_major_formatter(_percent)
        number_axis(axes.xaxis)
        label_ends(axes, ends)
    return figure


def improvement(names: Sequence[str], matrix: Sequence[Sequence[Interval | None]]) -> Figure:
    """Probability that a row's agent beats a column's, as a tinted table.

    Bold where the interval leaves out one half.

    Args:
        names: of rows and columns.
        matrix: row by row; the diagonal is not shown.
    """
    small = len(names) > 6
    with styled():
        figure, ((axes,),) = blank(1.2 + 0.5 * len(names))
        for row, line in enumerate(matrix):
            for column, cell in enumerate(line):
                if cell is None or row == column:
                    continue
                _cell(axes, row, column, cell, small)
        count = len(names)
        axes.set(xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.5))
        shown = [brief(name) for name in names]
        axes.set_xticks(range(count), shown, rotation=30, ha="left", rotation_mode="anchor")
        axes.set_yticks(range(count), shown)
        axes.set_xlabel("chance that the row beats the column; bold: clear of one half", labelpad=8)
        axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
        axes.spines[:].set_visible(False)
        axes.grid(visible=False)
        settle(figure)
    return figure


def _cell(axes: Axes, row: int, column: int, cell: Interval, small: bool) -> None:
    clear = cell.low > 0.5 or cell.high < 0.5
    colour = _BETTER if cell.value > 0.5 else _WORSE
    tint = 0.06 + 0.5 * abs(2 * cell.value - 1)
    box = Rectangle((column - 0.47, row - 0.45), 0.94, 0.9, color=colour, alpha=tint, linewidth=0)
    axes.add_patch(box)
    weight = "bold" if clear else "normal"
    middle: dict[str, Any] = {"ha": "center", "va": "center"}
    axes.text(column, row - 0.14, f"{cell.value:.2f}", weight=weight, **middle)
    span = f"{cell.low:.2f}\N{EN DASH}{cell.high:.2f}"
    axes.text(column, row + 0.22, span, fontsize=6.5 if small else 8, alpha=0.85, **middle)


def stacked(rows: Mapping[str, Mapping[str, float]], xlabel: str) -> Figure:
    """Shares of a whole as bars end to end, such as the parts of a variance.

    Args:
        rows: by name, the share of each part; one below 0 (an estimate may be) is drawn as 0.
        xlabel: what the whole is.
    """
    parts = list(dict.fromkeys(part for row in rows.values() for part in row))
    palette = Palette(parts)
    with styled():
        figure, ((axes,),) = blank(1.1 + ROW * 1.15 * len(rows))
        left = np.zeros(len(rows))
        for part in parts:
            shares = np.array([max(row.get(part, 0.0), 0.0) for row in rows.values()])
            axes.barh(range(len(rows)), shares, 0.72, left, color=palette.colour(part), label=part)
            for place, share in enumerate(shares):
                if share >= 0.07:
                    axes.text(left[place] + share / 2, place, _percent(share), color="#ffffff",
                              weight="bold", fontsize=9, ha="center", va="center")  # fmt: skip
            left += shares
        axes.set(xlabel=xlabel, ylim=(len(rows) - 0.5, -0.5), xlim=(0, max(1.0, left.max())))
        axes.set_yticks(range(len(rows)), [brief(name) for name in rows])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_formatter(_percent)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(parts), frameon=False)
        settle(figure)
    return figure
