"""What a person sees while training: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import shutil
import time
from typing import NamedTuple

from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from rlgrad.terminal import STDERR, console, show, tell

_TRACK = "bright_black"  # of a bar; rich's own is so dark that on a light ground it looks full


class Status(NamedTuple):
    """Where training stands."""

    step: int
    """Env steps of the slowest seed."""
    total: int
    """Env steps asked for per seed."""
    running: int
    """Seeds still training."""
    seeds: int
    solved: int
    mean_return: float
    """Mean over seeds of the last 100 episodes' mean return; NaN before the first."""
    steps_per_second: float
    """All seeds together."""


class Screen:
    """Standard error: lines that stay, and on a terminal a live part while it is entered.

    Args:
        quiet: show nothing.
        *columns: of the live part.
    """

    def __init__(self, quiet: bool, *columns: ProgressColumn) -> None:
        self.console = console(stderr=True, quiet=quiet, soft_wrap=True)
        self.quiet, self.live = quiet, self.console.is_terminal and not quiet
        self.progress = Progress(
            *columns, console=self.console, transient=True, refresh_per_second=8
        )
        self._last = 0.0

    def __enter__(self) -> None:
        if self.live:
            self.progress.start()

    def __exit__(self, *error: object) -> None:
        if self.live:
            self.progress.stop()

    def say(self, line: str) -> None:
        """A line that stays."""
        show(self.console, line)

    def seldom(self, line: str) -> None:
        """A plain line every few seconds, where there is no live part."""
        now = time.monotonic()
        if not self.quiet and not self.live and now - self._last >= 5.0:
            tell(line)
            self._last = now


class Display:
    """Progress of one training.

    Args:
        title: what is trained.
        quiet: show nothing.
    """

    def __init__(self, title: str, quiet: bool = False) -> None:
        self._title = title
        self._screen = Screen(
            quiet,
            BarColumn(20, style=_TRACK),
            TaskProgressColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(compact=True),
        )
        self._task = self._screen.progress.add_task("", total=1, status="starting")
        self.say = self._screen.say

    def __enter__(self) -> Display:
        self._screen.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._screen.__exit__(*error)

    def update(self, status: Status) -> None:
        """Show where training stands."""
        if self._screen.quiet:
            return
        told = describe(status)
        self._screen.progress.update(
            self._task, completed=status.step, total=status.total, status=told
        )
        self._screen.seldom(f"{self._title}: {told}")


class Board:
    """Progress of several trainings at once.

    Args:
        total: how many there will be.
        quiet: show nothing.
    """

    def __init__(self, total: int, quiet: bool = False) -> None:
        self._done, self._total = 0, total
        self._screen = Screen(
            quiet,
            TextColumn("{task.description}"),
            BarColumn(12, style=_TRACK),
            TaskProgressColumn(),
            TextColumn("{task.fields[status]}"),
        )
        self._tasks: dict[str, TaskID] = {}
        self._waits: TaskID | None = None
        self.say = self._screen.say

    def __enter__(self) -> Board:
        self._screen.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._screen.__exit__(*error)

    def update(self, label: str, status: Status) -> None:
        """Show where one of them stands."""
        progress = self._screen.progress
        if label not in self._tasks:
            self._tasks[label] = progress.add_task(label, status="")
        progress.update(
            self._tasks[label], completed=status.step, total=status.total, status=briefly(status)
        )
        self._screen.seldom(f"{label}: {describe(status)}")

    def resize(self, total: int) -> None:
        """Say how many there will be after all."""
        self._total = total

    def waiting(self, count: int) -> None:
        """Show how many have not begun, since there is no room for them."""
        progress = self._screen.progress
        if self._waits is not None:
            progress.remove_task(self._waits)
        told = f"{count} of {self._total} wait for free CPUs"
        self._waits = progress.add_task(told, total=None, status="") if count else None
        if count:
            self._screen.seldom(told)

    def done(self, label: str, how: str = "done") -> None:
        """One has ended; its line stays."""
        self._done += 1
        if label in self._tasks:
            self._screen.progress.remove_task(self._tasks.pop(label))
        self.say(f"[{self._done}/{self._total}] {label}: {how}")


def describe(status: Status) -> str:
    """Steps, return, seeds, steps per second: at most 60 columns, beside a bar and a time."""
    parts = [f"{short(status.step)}/{short(status.total)} steps"]
    if not math.isnan(status.mean_return):
        parts.append(f"return {status.mean_return:.4g}")
    if status.seeds > 1:
        parts.append(f"{status.running}/{status.seeds} running")
    if status.solved:
        parts.append(f"{status.solved} solved")
    parts.append(f"{short(status.steps_per_second)}/s")
    return "  ".join(parts)


def briefly(status: Status) -> str:
    """Return and speed, or that only the evaluation is left."""
    if status.step >= status.total:
        return "evaluating"
    parts = [] if math.isnan(status.mean_return) else [f"return {status.mean_return:.4g}"]
    return "  ".join([*parts, f"{short(status.steps_per_second)} steps/s"])


def short(number: int | float) -> str:
    """Three significant digits: 512, 58.6k, 1.23M."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * unit:  # what three digits round up to it
            return f"{number / unit:.3g}{name}"
    return f"{number:.0f}"


def passing(line: str) -> None:
    """Show a line on a terminal until the next one comes; nothing where there is no terminal."""
    if STDERR.isatty():
        width = shutil.get_terminal_size().columns - 1
        print(f"\r{line[:width]:{width}s}\r", end="", file=STDERR, flush=True)
