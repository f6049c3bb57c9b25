"""A trainer with everything around it: logging, checkpoints, evaluation, signals, the result."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rlgrad.best import keep_best
from rlgrad.display import Display, Status
from rlgrad.engine import Engine
from rlgrad.evaluation import judge
from rlgrad.faults import Faults
from rlgrad.lanes import kept_in
from rlgrad.locking import Lock
from rlgrad.log import Log
from rlgrad.options import Options
from rlgrad.output import plain, to_disk, write_whole
from rlgrad.peer_cards import hyperparameters
from rlgrad.saving import Saver, Standing
from rlgrad.signals import Signals
from rlgrad.store import Run

Start = tuple[Standing, Path | None]
"""What another process left: its standing, and the checkpoint; None: it wrote none."""


class Session:
    """A trainer with everything around it.

    Args:
        trainer: ready to train, rlgrad's own or a peer.
        run: the directory that it writes to.
        display: what a person sees.
        options: how to train.
        lock: on the directory, released at the end.
        start: where the trainer stands, if it goes on from another process; None: at the start.
    """

    def __init__(
        self,
        trainer: Engine,
        run: Run,
        display: Display,
        options: Options,
        lock: Lock,
        start: Start | None = None,
    ) -> None:
        self.trainer, self.run, self.display, self.options = trainer, run, display, options
        self.total = run.config.total_timesteps
        self.log_freq = options.log_freq or max(1, self.total // 50)
        card = (run.path / "card.toml").read_text("utf-8")
        settings = hyperparameters(run.config, run.peer)
        self.standing = Standing(evaluated=[-1] * len(run.seeds)) if start is None else start[0]
        steps = {outcome.seed: outcome.steps for outcome in trainer.outcomes}
        since = None if start is None else (self.standing.record, steps)
        with to_disk(run.path):
            self.log, self.lock = Log(run.path, run.seeds, card, settings, since), lock
        path = None if start is None else start[1]
        self.saver = Saver(trainer, run, options, self.log, self.standing, path)
        self.signals = Signals(display.say)
        self.faults = Faults(run, lambda: (max(self._steps), self.saver.path))
        self._before, self._failed = self._steps, self._failures()

    @property
    def _steps(self) -> list[int]:
        return [outcome.steps for outcome in self.trainer.outcomes]

    @property
    def signal(self) -> int:
        """The signal that asked for the end; 0: none did."""
        return self.signals.number

    @property
    def stopped(self) -> bool:
        """Whether a signal asked for the end."""
        return bool(self.signal)

    def go(self) -> None:
        """Train all seeds to their end, then evaluate and write the result."""
        try:
            with self.signals, self.display, self.faults.explained(), kept_in(self.run.path):
                self._evaluate()  # what another process left to do
                self.trainer.run(self)
                self._finish()
        finally:
            self.close()

    def close(self) -> None:
        """Release environments, files and the directory, each even where another cannot be."""
        with ExitStack() as stack:
            stack.callback(self.lock.release)
            stack.callback(self.log.close)
            stack.callback(self.trainer.close)

    def wants(self, steps: int) -> bool:
        """Whether numbers will be logged after so many further env steps of some seed."""
        return any(
            now // self.log_freq < (now + steps) // self.log_freq or now + steps >= self.total
            for now in (o.steps for o in self.trainer.outcomes if o.status == "running")
        )

    def after(self) -> None:
        """What is due after an iteration: a logged point, a checkpoint, an evaluation."""
        before, self._before = self._before, self._steps

        def due(freq: int) -> list[int]:
            """Seeds whose env steps crossed a multiple of ``freq``."""
            pairs = enumerate(zip(before, self._before, strict=True))
            return [i for i, (old, now) in pairs if freq and now // freq > old // freq]

        self._say_failures()
        self._write(due(self.log_freq))
        self.display.update(self._status())
        self._expect(due(self.options.eval_freq))
        if self.saver.due(bool(due(self.options.save_freq))):
            self.save()
        self._evaluate()

    def _failures(self) -> list[int]:
        """Numbers of the seeds that have failed."""
        return [i for i, outcome in enumerate(self.trainer.outcomes) if outcome.status == "failed"]

    def _say_failures(self) -> None:
        """Say which seeds have failed since the last time, and why."""
        for i in self._failures():
            if i not in self._failed:
                outcome = self.trainer.outcomes[i]
                self.display.say(f"seed {outcome.seed} failed and is frozen: {outcome.reason}")
        self._failed = self._failures()

    def _finish(self) -> None:
        """The last checkpoint, the last evaluation, and how it all ended."""
        outcomes = self.trainer.outcomes
        for outcome in outcomes:
            if outcome.status == "running":
                outcome.status = "interrupted"
        if not self.signal:
            self._expect(range(len(outcomes)))
        self.save()
        self._evaluate()
        self.save()
        with self.faults.writing():
            write_whole(self.run.path / "result.json", json.dumps(plain(self.result())).encode())

    def _speed(self, i: int | None = None) -> float:
        """Env steps per second of training: seed i with those that share its seconds, or all."""
        steps = sum(self._steps) if i is None or self.trainer.together > 1 else self._steps[i]
        return steps / max(self.trainer.seconds(i).wall, 1e-9)

    def _write(self, due: Sequence[int]) -> None:
        """Log the seeds that are due."""
        for i in due:
            outcome = self.trainer.outcomes[i]
            shared = {
                "rollout/ep_rew_mean": outcome.mean_return,
                "rollout/ep_len_mean": outcome.mean_length,
                "time/fps": self._speed(i),
            }
            self._log(i, {**shared, **self.trainer.numbers(i)})
        if due:
            with self.faults.writing():
                self.log.flush()

    def _log(self, i: int, numbers: Mapping[str, float]) -> None:
        """A row of seed number i, with its clock."""
        outcome, seconds = self.trainer.outcomes[i], self.trainer.seconds(i)
        clock = {"time/cpu_seconds": seconds.cpu, "time/wall_seconds": seconds.wall}
        with self.faults.writing():
            self.log.write(outcome.seed, outcome.steps, {**numbers, **clock})

    def _status(self) -> Status:
        outcomes = self.trainer.outcomes
        means = [o.mean_return for o in outcomes if not math.isnan(o.mean_return)]
        running = [o.steps for o in outcomes if o.status == "running"]
        slowest = min(running, default=max(self._steps))
        return Status(
            slowest if self.trainer.together > 1 else sum(self._steps) // len(outcomes),
            self.total,
            len(running),
            len(outcomes),
            sum(o.solved_at_step is not None for o in outcomes),
            sum(means) / len(means) if means else float("nan"),
            self._speed(),
        )

    def save(self) -> None:
        """Write a checkpoint, unless nothing has moved since the last."""
        with self.faults.writing():
            self.saver.save()

    def _expect(self, due: Iterable[int]) -> None:
        """Note seeds that are to be evaluated where they stand, once per step.

        A seed that failed is left out.
        """
        now, done = self.trainer.outcomes, self.standing.evaluated
        left = (i for i in due if now[i].status != "failed" and done[i] != now[i].steps)
        self.standing.pending += [i for i in left if i not in self.standing.pending]

    def _evaluate(self) -> None:
        """Evaluate what is due from a checkpoint, which says so: then no end loses or repeats it.

        A seed is due until its row is written; a signal leaves the rest to who goes on.
        """
        if self.standing.pending and not self.signal:
            self.save()
        while self.standing.pending and not self.signal:
            i, path = self.standing.pending[0], self.saver.path
            outcome = self.trainer.outcomes[i]
            numbers = judge(
                self.run, outcome, path, self.options.eval_episodes, lambda: self.stopped
            )
            if numbers is None:
                return
            if path is not None and numbers:
                with self.faults.writing():
                    keep_best(self.run, outcome.seed, path, numbers["eval/mean_reward"])
            self.standing.evaluated[i] = outcome.steps
            self.standing.pending.pop(0)
            self._log(i, numbers)
        self._say_failures()

    def result(self) -> dict[str, Any]:
        """How the run ended, as plain numbers; seconds are of training alone."""
        seconds = self.trainer.seconds()
        return {
            "run": str(self.run.path),
            "environment": self.run.env_id,
            "agent": self.run.agent,
            "solved_at": self.trainer.solved_at,
            "signal": self.signal,
            "cpu_seconds": seconds.cpu,
            "wall_seconds": seconds.wall,
            "together": self.trainer.together,
            "exact": self.standing.exact,
            "seeds": [outcome.plain() for outcome in self.trainer.outcomes],
        }
