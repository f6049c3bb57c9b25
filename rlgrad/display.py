"""What a person sees while training: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import shutil
import sys
import time
from types import TracebackType
from typing import NamedTuple

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)


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


class Display:
    """Progress on standard error.

    Args:
        title: what is trained.
        quiet: show nothing.
    """

    def __init__(self, title: str, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, soft_wrap=True, highlight=False)
        self._title, self._quiet = title, quiet
        self._live = self.console.is_terminal and not quiet
        self._last = 0.0
        self._progress = Progress(
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            transient=True,
            refresh_per_second=8,
        )
        self._task = self._progress.add_task("", total=1, status="starting")

    def __enter__(self) -> Display:
        if self._live:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live:
            self._progress.stop()

    def say(self, line: str) -> None:
        """A line that stays."""
        self.console.print(line, markup=False)

    def update(self, status: Status) -> None:
        """Show where training stands; plain lines come every few seconds only."""
        if self._quiet:
            return
        now = time.monotonic()
        if self._live:
            self._progress.update(
                self._task, completed=status.step, total=status.total, status=describe(status)
            )
        elif now - self._last >= 5.0:
            print(f"{self._title}: {describe(status)}", file=sys.stderr, flush=True)
            self._last = now


class Board:
    """Progress of several trainings at once, on standard error.

    Args:
        total: how many there will be.
        quiet: show nothing.
    """

    def __init__(self, total: int, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, soft_wrap=True, highlight=False)
        self._quiet, self._live = quiet, self.console.is_terminal and not quiet
        self._last = 0.0
        self._done, self._total = 0, total
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            TaskProgressColumn(),
            TextColumn("{task.fields[status]}"),
            console=self.console,
            transient=True,
            refresh_per_second=8,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Board:
        if self._live:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live:
            self._progress.stop()

    def say(self, line: str) -> None:
        """A line that stays."""
        self.console.print(line, markup=False)

    def update(self, label: str, status: Status) -> None:
        """Show where one stands; plain lines come every few seconds only."""
        if self._live:
            if label not in self._tasks:
                self._tasks[label] = self._progress.add_task(label, status="")
            task = self._tasks[label]
            self._progress.update(
                task, completed=status.step, total=status.total, status=briefly(status)
            )
        elif not self._quiet and time.monotonic() - self._last >= 5.0:
            print(f"{label}: {describe(status)}", file=sys.stderr, flush=True)
            self._last = time.monotonic()

    def done(self, label: str, how: str = "done") -> None:
        """One has ended; its line stays."""
        self._done += 1
        if label in self._tasks:
            self._progress.remove_task(self._tasks.pop(label))
        self.say(f"[{self._done}/{self._total}] {label}: {how}")


def describe(status: Status) -> str:
    """One line: steps, return, seeds, speed."""
    parts = [f"{short(status.step)}/{short(status.total)} steps"]
    if not math.isnan(status.mean_return):
        parts.append(f"return {status.mean_return:.4g}")
    if status.seeds > 1:
        parts.append(f"{status.running}/{status.seeds} seeds running")
    if status.solved:
        parts.append(f"{status.solved} solved")
    parts.append(f"{short(status.steps_per_second)} steps/s")
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
        if number >= unit:
            return f"{number / unit:.3g}{name}"
    return f"{number:.0f}"


def passing(line: str) -> None:
    """Show a line on a terminal until the next one comes; nothing where there is no terminal."""
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns - 1
        print(f"\r{line[:width]:{width}s}\r", end="", file=sys.stderr, flush=True)
