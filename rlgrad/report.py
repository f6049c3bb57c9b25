"""Tables and summaries on the terminal."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from rlgrad import terminal
from rlgrad.config import short_name

_LEGEND = """
fit: whether its own parameters were trained; f: values of f per estimate
bias: norm of mean - exact; z: worst |bias| of a logit in standard errors
var: variance, log: its logarithm; x f: variance x f
SNR: squared norm of the exact gradient / variance; µs: per estimate
> least x f of the unbiased that do not enumerate f; * declared biased"""
_LEAST_SUMMARY = 36  # columns beside a table; with fewer, a summary stands below its row
_HIDDEN = {"card", "source", "algorithm"}  # in --json, and the source with --cite


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _summarised(line: str, summary: str, width: int) -> str:
    """A line of a table with its summary beside it, or below it where there is too little room."""
    room = width - len(line) - 2
    beside = room >= _LEAST_SUMMARY
    wrapped = textwrap.wrap(summary, room if beside else max(width, 24) - 4, break_on_hyphens=False)
    if beside:
        return (line + "  " + f"\n{' ' * (width - room)}".join(wrapped)).rstrip()
    return "\n    ".join([line.rstrip(), *wrapped])


def print_list(what: str, rows: Sequence[Mapping[str, Any]], cite: bool, note: str = "") -> None:
    """Rows of ``rlgrad list`` as a table in which nothing is cut; only summaries wrap.

    Args:
        what: is listed.
        rows: with the same keys, the name first.
        cite: whether to add the sources.
        note: to be said below the table.
    """
    if not rows:
        terminal.out(f"no {what}")
        return
    console = terminal.console()
    keys = [key for key in rows[0] if key not in {*_HIDDEN, "summary"}]
    cells = [[key.replace("_", " ") for key in keys], *([_text(r[k]) for k in keys] for r in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    head, *lines = ("  ".join(map(str.ljust, line, widths)) for line in cells)
    console.print(_summarised(head, "summary", console.width), style="bold", soft_wrap=True)
    for line, row in zip(lines, rows, strict=True):
        text = Text(_summarised(line, row["summary"], console.width))
        text.stylize("bold", 0, widths[0])
        console.print(text, soft_wrap=True)
    if note:
        console.print(f"\n{note}", markup=False)
    if cite:
        console.print()
        for row in rows:
            console.print(f"{row[keys[0]]}: {row['source']}", markup=False, soft_wrap=True)


def _score(score: Mapping[str, Any]) -> str:
    places = 1 if abs(score["mean"]) >= 10 else 2
    return f"{score['mean']:.{places}f} ± {score['deviation']:.{places}f}"


def print_evaluation(rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of ``rlgrad evaluate`` as a table."""
    console, episodes = terminal.console(), rows[0]["sampled"]["episodes"]
    terminal.show(console, f"{rows[0]['run']}: {episodes} episodes each, mean ± deviation")
    table = Table(box=None, header_style="bold", pad_edge=False)
    for key in ("seed", "env steps", "sampled", "argmax", "unfinished"):
        table.add_column(key, justify="right")
    for row in rows:
        unfinished = row["sampled"]["unfinished"] + row["argmax"]["unfinished"]
        scores = _score(row["sampled"]), _score(row["argmax"])
        table.add_row(str(row["seed"]), f"{row['step']:,}", *scores, str(unfinished))
    console.print(table)


_NUMBERS = (
    ("f", "evaluations"), ("bias", "bias"), ("z", "z"), ("var", "variance"),
    ("log", "log_variance"), ("x f", "cost"), ("SNR", "signal_to_noise"), ("µs", "microseconds"),
)  # fmt: skip
SUSPICIOUS = 6.5  # |z| that an unbiased estimator reaches once in 1e10 measurements


def _number(row: Mapping[str, Any], key: str) -> str:
    value = row[key]
    if value is None:  # JSON has no infinity
        unknown = row["bias"] is None and key in ("bias", "z")
        return "-" if unknown else "-inf" if key == "log_variance" else "inf"
    if key in ("z", "microseconds", "log_variance") and abs(value) < 1000:
        return f"{value:.{2 if key == 'log_variance' else 1}f}"
    text = f"{value:.3g}" if key != "bias" else f"{value:.2g}"
    return re.sub(r"e([+-])0", r"e\1", text)


def print_variance(table: Mapping[str, Any]) -> None:
    """The table of ``rlgrad variance``, by variance; what cannot be served comes below it."""
    console = terminal.console()
    console.print(f"{table['problem']}: {table['summary']}", markup=False)
    known = table["mean"] is not None
    exact = "E[f] = {mean:.6g}, squared norm of its gradient {signal:.4g}; " if known else ""
    console.print(exact.format(**table) + f"{table['draws']:,} estimates each\n", markup=False)
    shown = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for title in ("estimator", "fit"):
        shown.add_column(title, overflow="fold")
    for title, _ in _NUMBERS:
        shown.add_column(title, justify="right", no_wrap=True)
    for row in table["results"]:
        mark = ">" if row["label"] == table["best"] else " " if row["unbiased"] else "*"
        wrong = row["unbiased"] and row["z"] is not None and row["z"] > SUSPICIOUS
        style = "bold red" if wrong else "bold" if mark == ">" else ""
        cells = (_number(row, key) for _, key in _NUMBERS)
        name = f"{mark}{short_name(row['estimator'])} {row['variant']}"
        shown.add_row(name.rstrip(), _text(row["trained"]), *cells, style=style)
    console.print(shown)
    for row in table["refused"]:
        console.print(f" {row['estimator']}: {row['reason']}", markup=False)
    console.print(_LEGEND)


def _ending(seed: Mapping[str, Any], solved_at: float | None) -> str:
    """How a seed ended, in words."""
    if seed["status"] == "failed":
        return f"FAILED: {seed['reason']}"
    parts = ["interrupted"] if seed["status"] == "interrupted" else []
    if seed["solved_at_step"] is not None:
        parts.append(f"solved at {seed['solved_at_step']:,}")
    elif solved_at is not None:
        parts.append(f"not solved (needs {solved_at:g})")
    if seed["status"] == "stopped":
        parts.append(f"stopped: {seed['reason']}")
    return ", ".join(parts) or "finished"


def print_summary(result: Mapping[str, Any], log_dir: str) -> None:
    """What a run came to, on standard error: how seeds ended, scores, where the run lies."""
    console = terminal.console(stderr=True)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for key, justify in (
        ("seed", "right"), ("steps", "right"), ("last 100", "right"),
        ("sampled", "right"), ("argmax", "right"), ("outcome", "left"),
    ):  # fmt: skip
        table.add_column(key, justify=justify, no_wrap=key != "outcome")  # type: ignore[arg-type]
    for seed in result["seeds"]:
        evaluation = seed["evaluation"]
        scores = [_score(evaluation[k]) if evaluation else "-" for k in ("sampled", "argmax")]
        mean = "-" if seed["mean_return"] is None else f"{seed['mean_return']:.1f}"
        steps = f"{seed['steps']:,}"
        ending = _ending(seed, result["solved_at"])
        table.add_row(str(seed["seed"]), steps, mean, *scores, ending)
    episodes = [s["evaluation"]["sampled"]["episodes"] for s in result["seeds"] if s["evaluation"]]
    console.print()
    console.print(table)
    if episodes:
        terminal.show(
            console,
            f"evaluated on {episodes[0]} fresh episodes of {result['environment']} each way, "
            "mean ± deviation; solved: mean return of the last 100 training episodes",
        )
    console.print(f"run          {result['run']}", soft_wrap=True, markup=False)
    console.print(f"TensorBoard  tensorboard --logdir {log_dir}", soft_wrap=True, markup=False)
