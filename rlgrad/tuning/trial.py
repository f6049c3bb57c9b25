"""One trial: all its seeds trained at once, and the area under their learning curves."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from rlgrad.cards import Resolved
from rlgrad.display import Status
from rlgrad.engine import Engine, Outcome
from rlgrad.errors import UsageError
from rlgrad.make import is_simulated
from rlgrad.options import Options, checked
from rlgrad.training import engine

CHECKPOINTS = 10  # of a trial, at equal env steps, where it may be given up
POINTS = 51  # of a learning curve that is kept


class UnfitError(UsageError):
    """A setting that cannot be trained, such as one that needs more memory than there is."""


def options_of(resolved: Resolved) -> Options:
    """How trials are trained: in this process, where no engine is to be chosen by measuring."""
    return checked({"quiet": True, "vec": "auto" if is_simulated(resolved.env) else "sync"})


class Progress:
    """What an engine calls after each iteration: keeps the curves, and says when to give up.

    Args:
        outcomes: of the seeds, which the engine keeps up to date.
        total: env steps per seed.
        floor: return of random actions, which a failed seed counts with.
        report: takes (checkpoint, area so far), and answers whether to give the trial up.
        update: is told where training stands.
        interrupted: whether a signal asked for the end.
    """

    def __init__(
        self,
        outcomes: Sequence[Outcome],
        total: int,
        floor: float,
        report: Callable[[int, float], bool],
        update: Callable[[Status], None],
        interrupted: Callable[[], bool],
    ) -> None:
        self._outcomes, self._total, self._floor = outcomes, total, floor
        self._report, self._update, self._interrupted = report, update, interrupted
        self._points: list[list[tuple[int, float]]] = [[] for _ in outcomes]
        self._checkpoint, self._started = 0, time.monotonic()
        self.pruned = False

    @property
    def stopped(self) -> bool:
        """Whether training is to end."""
        return self.pruned or self._interrupted()

    def wants(self, steps: int) -> bool:
        """Nothing beyond returns is looked at."""
        return False

    def after(self) -> None:
        """Keep a point of every seed's curve; at a checkpoint, ask whether to go on."""
        for points, outcome in zip(self._points, self._outcomes, strict=True):
            if not math.isnan(outcome.mean_return) and outcome.steps > (points or [(0, 0)])[-1][0]:
                points.append((outcome.steps, outcome.mean_return))
        at = min(self.step * CHECKPOINTS // self._total, CHECKPOINTS)
        if self._checkpoint < at < CHECKPOINTS:
            self._checkpoint = at
            self.pruned = self._report(at, self.area())
        self._update(self._status())

    @property
    def step(self) -> int:
        """Env steps of the slowest seed that trains."""
        running = [each.steps for each in self._outcomes if each.status == "running"]
        return min(min(running, default=self._total), self._total)

    def _status(self) -> Status:
        outcomes = self._outcomes
        known = [x.mean_return for x in outcomes if not math.isnan(x.mean_return)]
        steps = sum(each.steps for each in outcomes)
        return Status(
            self.step,
            self._total,
            sum(each.status == "running" for each in outcomes),
            len(outcomes),
            sum(each.solved_at_step is not None for each in outcomes),
            sum(known) / len(known) if known else math.nan,
            steps / max(time.monotonic() - self._started, 1e-9),
        )

    def curve(self) -> list[tuple[float, float]]:
        """(env steps, mean return over seeds) on a grid up to where training stands.

        Before a seed's first episode ends its return is taken to be that episode's.
        """
        grid = np.linspace(0, self.step, POINTS)
        curves = [
            np.interp(grid, [x for x, _ in points], [y for _, y in points])
            if points and outcome.status != "failed"
            else np.full(POINTS, self._floor)
            for points, outcome in zip(self._points, self._outcomes, strict=True)
        ]
        return list(zip(grid.tolist(), np.mean(curves, 0).tolist(), strict=True))

    def area(self) -> float:
        """Mean of the curve over env steps so far."""
        return float(np.mean([value for _, value in self.curve()]))


def _made(resolved: Resolved, seeds: Sequence[int]) -> Engine:
    try:
        return engine(resolved, seeds, options_of(resolved))
    except UsageError as error:
        raise UnfitError(str(error)) from None


def unfit(floor: float, seeds: int) -> dict[str, Any]:
    """What ``Study.tell`` takes of a setting that cannot be trained: it counts as random."""
    return {
        "area": floor,
        "pruned": False,
        "last": None,
        "failed": seeds,
        "cpu_seconds": 0.0,
        "curve": [(0.0, floor), (1.0, floor)],
    }


def run(
    resolved: Resolved,
    seeds: Sequence[int],
    floor: float,
    report: Callable[[int, float], bool],
    update: Callable[[Status], None],
    interrupted: Callable[[], bool],
) -> dict[str, Any] | None:
    """Train all seeds of a setting; what ``Study.tell`` takes, None where it was interrupted.

    Args:
        resolved: the setting.
        seeds: trained together.
        floor: see ``Progress``, as the other arguments.
        report: takes (checkpoint, area so far), and answers whether to give the trial up.
        update: is told where training stands.
        interrupted: whether a signal asked for the end.

    Raises:
        UnfitError: where the setting cannot be trained.
        UsageError: where the environment misbehaves.
    """
    torch.set_num_threads(1)  # small networks: a second thread only waits
    started = time.process_time()
    trained = _made(resolved, seeds)
    try:
        total = resolved.config.total_timesteps
        progress = Progress(trained.outcomes, total, floor, report, update, interrupted)
        trained.run(progress)
    finally:
        trained.close()
    if interrupted():
        return None
    curve = progress.curve()
    return {
        "area": progress.area(),
        "pruned": progress.pruned,
        "last": curve[-1][1],
        "failed": sum(outcome.status == "failed" for outcome in trained.outcomes),
        "cpu_seconds": time.process_time() - started,
        "curve": curve,
    }
