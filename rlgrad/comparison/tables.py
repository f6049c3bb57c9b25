"""A comparison on the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable

from rich.table import Table

from rlgrad import terminal
from rlgrad.comparison.judgement import Judgement
from rlgrad.comparison.summaries import Summary
from rlgrad.display import short
from rlgrad.stats import Interval


def number(x: float) -> str:
    """Three or four significant digits, without an exponent where one can do without."""
    if not math.isfinite(x):
        return "-"
    if x == 0 or 0.01 <= abs(x) < 10_000:
        return f"{x:.1f}" if abs(x) >= 100 else f"{x:.2f}" if abs(x) >= 1 else f"{x:.3g}"
    return f"{x:.3g}"


def with_bounds(interval: Interval | None, text: Callable[[float], str] = number) -> str:
    """``value [low, high]``; "-" where there is none, "∞" for what is not reached."""
    if interval is None:
        return "-"
    parts = [text(x) if math.isfinite(x) else "∞" for x in interval]
    return f"{parts[0]} [{parts[1]}, {parts[2]}]"


def to_solve(interval: Interval | None, text: Callable[[float], str] = number) -> str:
    """Median to solve, or why there is none."""
    if interval is not None and math.isinf(interval.value):
        return "not half solved"
    return with_bounds(interval, text)


def print_comparison(found: Judgement, stderr: bool = False) -> None:
    """Tables, what may be claimed, and what to know before believing it."""
    console = terminal.console(stderr)
    for env in found.envs:
        rows = [s for s in found.summaries if s.env == env]
        console.print(f"\n[bold]{env}[/bold], {_protocol(found, env)}", soft_wrap=True)
        console.print(_table(rows))
    if found.aggregate:
        console.print(
            "\n[bold]all environments[/bold], scores normalised: random actions 0, solved 1"
        )
        console.print(_aggregate(found))
    console.print()
    for line in found.verdicts:
        console.print(line, markup=False)
    for key, values in found.differences.items():
        said = "; ".join(f"{value} ({', '.join(agents)})" for value, agents in values.items())
        console.print(f"cards differ beyond the agents: {key} = {said}", markup=False)
    for line in found.warnings:
        console.print(f"warning: {line}", markup=False, style="bold yellow")
    console.print(
        "return: interquartile mean over seeds [95 % bootstrap interval]; to solve: median, "
        "unsolved seeds censored, - where fewer than half are solved; CPU-s: of the process, "
        "divided by the seeds that share it (together), or of a seed with its own (alone)"
    )


def _protocol(found: Judgement, env: str) -> str:
    own = [e for e in found.entries if e.env == env]
    seeds = sorted({len(e.seeds) for e in own})
    episodes = sorted(
        {r.evaluation["sampled"]["episodes"] for e in own for r in e.seeds if r.evaluation}
    )
    return (
        f"{_span(seeds)} {'seed' if seeds == [1] else 'seeds'} each, scores of {_span(episodes)} "
        "fresh episodes per seed"
    )


def _span(numbers: list[int]) -> str:
    """One number, or from the least to the most."""
    if not numbers:
        return "no"
    return f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def _table(rows: list[Summary]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("agent", no_wrap=True)
    table.add_column("return [95 %]", justify="right", no_wrap=True)
    for title in ("argmax", "solved", "steps to solve", "CPU-s together", "alone"):
        table.add_column(title, justify="right")
    for s in sorted(rows, key=lambda s: -s.iqm.value):
        table.add_row(
            s.agent,
            with_bounds(s.iqm),
            number(s.argmax.value),
            f"{s.solved}/{s.seeds}",
            *(
                text(x.value) if x is not None and math.isfinite(x.value) else "-"
                for x, text in (
                    (s.steps_to_solve, short),
                    (s.seconds_together, number),
                    (s.seconds_alone, number),
                )
            ),
        )
    return table


def _aggregate(found: Judgement) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("agent", no_wrap=True)
    for title in ("interquartile mean", "median", "mean"):
        table.add_column(title, justify="right", no_wrap=True)
    for agent, row in sorted(found.aggregate.items(), key=lambda each: -each[1]["iqm"].value):
        table.add_row(agent, *(with_bounds(row[key]) for key in ("iqm", "median", "mean")))
    return table
