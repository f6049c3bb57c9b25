"""What a session tells of its engine while it trains: rows of the record, and a line for people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rlgrad.callbacks.calling import Callbacks
from rlgrad.display import Status
from rlgrad.engine import Engine
from rlgrad.faults import Faults
from rlgrad.infos import Infos
from rlgrad.log import Log


class Reporter:
    """Gathers the numbers of each seed.

    Args:
        engine: that trains.
        log: that rows go to.
        faults: that says what the disk refuses.
        callbacks: that may add numbers.
        infos: of the environments, counted since the last row.
    """

    def __init__(
        self, engine: Engine, log: Log, faults: Faults, callbacks: Callbacks, infos: Infos
    ) -> None:
        self.engine, self.log, self.faults = engine, log, faults
        self.callbacks, self.infos = callbacks, infos
        self._steps = self.steps
        if infos.wanted:
            engine.infos()  # of episodes that were played again to stand where a run goes on

    @property
    def steps(self) -> list[int]:
        """Env steps of each seed."""
        return [outcome.steps for outcome in self.engine.outcomes]

    def take(self) -> list[str]:
        """Take in an iteration's infos; returns what to tell of those that are missing."""
        before, self._steps = self._steps, self.steps
        if not self.infos.wanted:
            return []
        trained = [now > old for old, now in zip(before, self._steps, strict=True)]
        self.infos.add(self.engine.infos(), trained)
        ended = any(outcome.episodes for outcome in self.engine.outcomes)
        return self.infos.missing() if ended else []

    def speed(self, i: int | None = None) -> float:
        """Env steps per second of training: seed i with those that share its seconds, or all."""
        steps = sum(self.steps) if i is None or self.engine.together > 1 else self.steps[i]
        return steps / max(self.engine.seconds(i).wall, 1e-9)

    def write(self, due: Sequence[int]) -> None:
        """Log the seeds that are due, by number."""
        for i in due:
            outcome = self.engine.outcomes[i]
            numbers = {
                "rollout/ep_rew_mean": outcome.mean_return,
                "rollout/ep_len_mean": outcome.mean_length,
                "time/fps": self.speed(i),
                **self.engine.numbers(i),
                **self.infos.row(i),
            }
            self.row(i, self.callbacks.log(outcome.seed, numbers))
        if due:
            with self.faults.writing():
                self.log.flush()

    def row(self, i: int, numbers: Mapping[str, float]) -> None:
        """A row of seed number i, with its clock."""
        outcome, seconds = self.engine.outcomes[i], self.engine.seconds(i)
        clock = {"time/cpu_seconds": seconds.cpu, "time/wall_seconds": seconds.wall}
        with self.faults.writing():
            self.log.write(outcome.seed, outcome.steps, {**numbers, **clock})

    def status(self, total: int) -> Status:
        """Where training stands.

        Args:
            total: env steps asked for per seed.
        """
        outcomes, steps = self.engine.outcomes, self.steps
        means = [o.mean_return for o in outcomes if not math.isnan(o.mean_return)]
        running = [o.steps for o in outcomes if o.status == "running"]
        slowest = min(running, default=max(steps))
        return Status(
            slowest if self.engine.together > 1 else sum(steps) // len(outcomes),
            total,
            len(running),
            len(outcomes),
            sum(o.solved_at_step is not None for o in outcomes),
            sum(means) / len(means) if means else float("nan"),
            self.speed(),
        )
