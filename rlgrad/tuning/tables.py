"""Trials on the terminal, best first."""

from __future__ import annotations

import math

from rich.table import Table

from rlgrad import terminal
from rlgrad.comparison.tables import number
from rlgrad.tuning.records import Trial, Tuned
from rlgrad.tuning.results import Tuning


def print_tuning(found: Tuning, stderr: bool = False) -> None:
    """A table per agent, and what its columns are.

    Args:
        found: the trials.
        stderr: whether standard output is taken by JSON.
    """
    console = terminal.console(stderr)
    for each in found.tuned:
        hours = sum(trial.cpu_seconds for trial in each.trials) / 3600
        console.print(
            f"\n[bold]{each.agent}[/bold] on {each.env}, {len(each.trials)} trials of "
            f"{len(each.seeds)} seeds x {each.total_timesteps:,} env steps, {hours:.3g} CPU-hours",
            soft_wrap=True,
        )
        console.print(_table(each))
        if each.left_out:
            console.print(
                f"{each.left_out} further trials are left out: another agent has not had as many"
            )
        if each.best.number == 0:
            console.print("no trial was better than the card as it was, trial 0")
    floor = number(found.tuned[0].floor)
    console.print(
        "\narea: mean return over the env steps of training, mean over seeds; up to its end where "
        f"a trial was given up (~); last: mean return of the last 100 training episodes; random "
        f"actions return {floor}"
    )


def _table(tuned: Tuned) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for title in ("trial", "area", "last"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("settings", overflow="fold")
    for trial in tuned.ranked:
        style = "bold" if trial is tuned.best else "dim" if trial.pruned else ""
        mark = "~" if trial.pruned else ""
        last = "-" if math.isnan(trial.last) else number(trial.last)
        failed = f"  {trial.failed} seeds failed" if trial.failed else ""
        cells = str(trial.number), mark + number(trial.area), last, _settings(trial) + failed
        table.add_row(*cells, style=style)
    return table


_SHORT = {
    "learning_rate": "rate",
    "critic_learning_rate": "critic",
    "estimator_learning_rate": "estimator",
    "learning_rate_final": "final",
    "gae_lambda": "lambda",
    "entropy_coef": "entropy",
}


def _settings(trial: Trial) -> str:
    """In a line: rates, sizes and the rest by short names."""
    told, given = [], dict(trial.settings)
    envs, steps = given.pop("num_envs"), given.pop("num_steps", None)
    told.append(f"envs {envs}" if steps is None else f"{envs}x{steps}")
    hidden = "x".join(map(str, given.pop("hidden")))
    told += [f"{_SHORT.get(name, name)} {value:g}" for name, value in given.items()]
    return "  ".join([*told, f"hidden {hidden}"])
