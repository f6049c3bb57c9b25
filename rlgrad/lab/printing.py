"""A table of estimators as text."""

from __future__ import annotations

import math
import re

from rich.table import Table

from rlgrad import terminal
from rlgrad.bootstrap import Interval
from rlgrad.config import short_name
from rlgrad.lab.rows import Measurements, Row

WIDE = 100  # columns of a terminal from which variances stand beside their ratios
FIT = "fit: whether its own parameters were trained"
LEGEND = """bias: |mean - reference| / |reference|; - where |z| < {clear:g}, which is noise
z: t statistic of the bias, one half of the lanes giving the direction for the other
ratio: variance / that of reinforce, with 95 % bounds on the same lanes
SNR: |reference|^2 / variance of one estimate
cos: of an update's gradient to the reference; µs: CPU time per estimate
x time: variance x time / that of reinforce
> least variance of the unbiased; * declared biased
! declared unbiased, and z above {found:.2g}"""
CLEAR = 2.0  # |z| below which a bias is noise


def legend(table: Measurements) -> str:
    """What the columns say."""
    return LEGEND.format(clear=CLEAR, found=table.found_from)


def number(value: float | None, digits: int = 3) -> str:
    """A number in few characters; None as a dash."""
    if value is None:
        return "-"
    return re.sub(r"e([+-])0", r"e\1", f"{value:.{digits}g}")


def rough(value: float) -> str:
    """Two significant digits."""
    return number(float(f"{value:.2g}"), 6)


def share(value: float | None) -> str:
    """Per cent; None as a dash."""
    if value is None:
        return "-"
    if value < 0.0005:
        return "<0.1%"
    return f"{100 * value:.1f}%" if value < 10 else ">999%"


def span(found: Interval) -> str:
    """Bounds, rounded outwards: 1 is between those shown if it is between those found."""
    low, high = (round(1000 * x, 3) for x in (found.low, found.high))
    near = 100 <= low <= high < 10_000
    shown = (f"{math.floor(low) / 1000:.3f}", f"{math.ceil(high) / 1000:.3f}")
    return "-".join(shown if near else (rough(found.low), rough(found.high)))


def statistic(z: float | None) -> str:
    """A z; None as a dash."""
    if z is None:
        return "-"
    return f"{z:.1f}" if abs(z) < 999 else ">999" if z > 0 else "<-999"


def mark(table: Measurements, row: Row) -> str:
    """What stands in front of a row."""
    if table.best is row:
        return ">"
    return "*" if not row.unbiased else "!" if row.found_biased else " "


def heading(table: Measurements) -> list[str]:
    """What was measured, in a few lines."""
    of = f"{table.run}, {table.checkpoint}" if table.run else f"initial parameters, {table.agent}"
    reference = table.reference
    behind = "exact" if reference.kind == "exact" else (
        f"mean of {reference.estimator} over {reference.states:,} other states"
    )  # fmt: skip
    lines = [
        f"{table.environment}: {of}, seed {table.seed}",
        f"signal {table.signal}, critic {table.critic}; {table.estimates:,} estimates of "
        f"{table.rows_per_estimate:.4g} rows from {table.lanes} lanes, {table.states:,} states",
        f"reference: {behind}; its norm {number(max(reference.square, 0.0) ** 0.5)}, "
        f"standard error {number(reference.error, 2)}",
    ]
    if not reference.resolved:
        lines.append(
            "the reference is not clear of its own noise, so what is relative to it is left out: "
            "measure more with --states"
        )
    return [*lines, *(f"note: {note}" for note in table.notes)]


def cells(row: Row, fitted: bool = True) -> list[str]:
    """Numbers of a row in the order of ``TITLES``."""
    clear = row.z is not None and abs(row.z) >= CLEAR
    fit = {None: "-", True: "yes", False: "no"}[row.trained]
    return [
        *([fit] if fitted else []), share(row.bias_relative if clear else None),
        statistic(row.z), number(row.ratio.value), span(row.ratio), number(row.signal_to_noise),
        number(row.cosine, 2), rough(row.microseconds), rough(row.cost),
    ]  # fmt: skip


TITLES = ("fit", "bias", "z", "ratio", "95 %", "SNR", "cos", "µs", "x time")


def parts(table: Measurements) -> str:
    """The split of the variance in words, or why there is none."""
    found = table.split
    if found is None:
        return f"split of the variance: none ({table.no_split})"
    named = {
        "action": found.action, "trajectory": found.trajectory, "state": found.state,
    }  # fmt: skip
    each = ", ".join(f"{name} {_part(p.share)}" for name, p in named.items())
    return (
        f"variance of one row's term, by what varies: {each} ({found.states} states set back). Of "
        "one row's term, control variates of state and action remove at most the action's share. "
        f"An estimate has {number(found.along.value, 2)} times the variance of as many "
        "uncorrelated rows."
    )


def _part(found: Interval) -> str:
    """A share of the variance; where its estimate came out below 0, its upper bound."""
    if math.isnan(found.value):
        return "-"
    if found.value > 0:
        return share(found.value)
    return f"<{100 * found.high:.1f}%" if found.high >= 0.0005 else "<0.1%"


def print_table(table: Measurements) -> None:
    """The table of ``rlgrad variance`` at a frozen policy, by variance."""
    console = terminal.console()
    for line in heading(table):
        console.print(line, markup=False)
    console.print()
    wide = console.width >= WIDE
    shown = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    shown.add_column("estimator", overflow="fold", min_width=12)
    for title in (*TITLES, *(["var"] if wide else [])):
        shown.add_column(title, justify="right", no_wrap=True)
    for row in table.rows:
        sign = mark(table, row)
        style = {">": "bold", "!": "bold red"}.get(sign, "")
        name = f"{sign}{short_name(row.estimator)} {row.variant}".rstrip()
        more = [number(row.variance.value)] if wide else []
        shown.add_row(name, *cells(row), *more, style=style)
    console.print(shown)
    for refused in table.refused:
        console.print(f" {refused.estimator}: {refused.reason}", markup=False)
    if table.dead:
        console.print(f"\nnote: {table.dead}", markup=False)
    console.print(f"\n{parts(table)}", markup=False)
    console.print(f"\n{FIT}\n{legend(table)}", markup=False)


def print_history(table: Measurements) -> None:
    """Ratios at each checkpoint, a line per estimator."""
    console = terminal.console()
    every = [*table.history, table]
    shown = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    shown.add_column("ratio at step", overflow="fold")
    for each in every:
        shown.add_column(f"{each.step:,}", justify="right", no_wrap=True)
    for row in table.rows:
        found = [next((r for r in each.rows if r.label == row.label), None) for each in every]
        numbers = ["-" if r is None else number(r.ratio.value) for r in found]
        shown.add_row(mark(table, row) + row.label, *numbers)
    console.print(shown)
    console.print()
