"""The report of measured estimators: one HTML file, and the same as rows."""

from __future__ import annotations

from html import escape
from typing import Any

from rlgrad.lab import pictures
from rlgrad.lab.printing import TITLES, cells, heading, legend, mark, parts
from rlgrad.lab.rows import Measurements
from rlgrad.lab.split_result import Split
from rlgrad.page import Page

_ENDS = ("value", "from", "to (95 %)")
_CAPTIONS = {
    "variance": "Total variance of one estimate relative to reinforce, with 95 % intervals from "
    "resampling the same lanes for both. Left is less noise; hollow is biased.",
    "along": "The same at each measured checkpoint.",
    "split": "Which randomness the variance of one row's term comes from. Of one row's term, "
    "control variates of state and action remove at most the action's share.",
}


_SPLIT = {
    "action": "of the action, given the state",
    "trajectory": "of what follows, given state and action",
    "state": "between states",
    "critic": "removed by the critic already, of the variance without it",
    "value_baseline": "removed by the mean credit of each state as a baseline",
    "baseline": "removed by the best baseline of the state",
    "per_logit_baseline": "removed by the best baselines of the state, one per logit",
}


def title_of(table: Measurements) -> str:
    """Of a report."""
    where = f"step {table.step:,}" if table.run else "initial parameters"
    return f"Gradient variance: {table.agent} on {table.environment}, {where}"


def page(table: Measurements) -> Page:
    """The report."""
    lines = heading(table)
    built = Page(title_of(table), lines[0])
    best = table.best
    if best is not None and best is not table.baseline:
        saved = f"{best.label} has {best.ratio.value:.3g} times the variance of reinforce "
        built.note(f"{saved}({best.ratio.low:.3g} to {best.ratio.high:.3g}).")
    for row in table.rows:
        if row.unbiased and row.found_biased:
            text = f"{row.label} is declared unbiased, and its bias has z = {row.z:.1f}."
            built.note(text, "warning")
    built.section("Estimators", "\n".join(lines[1:]))
    rows = [[f"{mark(table, r)}{r.label}".strip(), *cells(r, False)] for r in table.rows]
    marked = [i for i, row in enumerate(table.rows) if row is best]
    built.table(["estimator", *TITLES[1:]], rows, legend(table), marked)
    if table.dead:
        built.note(table.dead, "warning")
    for name, figure in pictures.figures(table).items():
        built.figure(name, figure, _CAPTIONS[name])
    if table.refused:
        names = [[each.estimator, each.reason] for each in table.refused]
        built.table(["not served", "why"], names)
    built.section("By layer", "Variance of one estimate in each layer of the policy.")
    layers = [[r.label, *(x.value for x in r.layers)] for r in table.rows]
    built.table(["estimator", *table.layer_names], layers)
    built.section("Where the variance comes from", parts(table))
    if table.split is not None:
        built.table(["share of the variance of one row's term", *_ENDS], split_rows(table.split))
    return built


def split_rows(found: Split) -> list[list[Any]]:
    """The parts of the variance and what baselines remove of it, with 95 % bounds."""
    rows: list[list[Any]] = [[text, *getattr(found, name).share] for name, text in _SPLIT.items()]
    along = "not a share: variance of an estimate / that of as many uncorrelated rows"
    return [*rows, [along, *found.along]]


def csv_rows(table: Measurements) -> list[dict[str, Any]]:
    """A row per checkpoint and estimator, numbers only."""
    found = []
    for each in (*table.history, table):
        for row in each.rows:
            bounds = {
                f"{name}{end}": value
                for name, interval in (("variance", row.variance), ("ratio", row.ratio))
                for end, value in zip(("", "_low", "_high"), interval, strict=True)
            }
            layers = {f"variance_layer_{i}": x.value for i, x in enumerate(row.layers)}
            found.append({
                "step": each.step, "estimator": row.estimator, "variant": row.variant,
                "trained": row.trained, "unbiased": row.unbiased, "bias": row.bias,
                "bias_relative": row.bias_relative, "z": row.z, **bounds,
                "signal_to_noise": row.signal_to_noise, "cosine": row.cosine,
                "microseconds": row.microseconds, "cost": row.cost, **layers,
            })  # fmt: skip
    return found


def fragment(table: Measurements) -> str:
    """The table for a notebook."""
    head = "".join(f"<th>{escape(title)}</th>" for title in ("estimator", *TITLES[1:]))
    body = "".join(
        "<tr>"
        + "".join(f"<td>{escape(x)}</td>" for x in (mark(table, r) + r.label, *cells(r, False)))
        + "</tr>"
        for r in table.rows
    )
    lines = "<br>".join(map(escape, heading(table)))
    return f"<p>{lines}</p><table><tr>{head}</tr>{body}</table>"
