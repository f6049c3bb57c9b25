"""A trainer with everything around it: logging, checkpoints, evaluation, signals, the result."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rlgrad.best import keep_best
from rlgrad.callbacks.base import Callback, Progress
from rlgrad.callbacks.calling import Callbacks
from rlgrad.display import Display
from rlgrad.engine import Engine, exit_status, is_logged
from rlgrad.evaluation import judge
from rlgrad.faults import Faults, kept_in
from rlgrad.infos import Infos
from rlgrad.locking import Lock
from rlgrad.log import Log
from rlgrad.options import Options
from rlgrad.output import to_disk, write_whole
from rlgrad.peer_cards import hyperparameters
from rlgrad.plain_data import plain
from rlgrad.reporting import Reporter
from rlgrad.saving import Saver, Standing
from rlgrad.signals import Signals
from rlgrad.store import Run

Start = tuple[Standing, Path | None]
"""What another process left: its standing, and the checkpoint; None: it wrote none."""


class Session:
    """A trainer with everything around it.

    Of several processes it is the leader's; see ``ranks.leading``.

    Args:
        trainer: ready to train, rlgrad's own or a peer.
        run: the directory that it writes to.
        display: what a person sees.
        options: how to train.
        lock: on the directory, released at the end.
        start: where the trainer stands, if it goes on from another process; None: at the start.
        callbacks: called while it trains.
    """

    leads = True
    """Whether it shows and writes; of several processes one does."""

    def __init__(
        self,
        trainer: Engine,
        run: Run,
        display: Display,
        options: Options,
        lock: Lock,
        start: Start | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.trainer, self.run, self.display, self.options = trainer, run, display, options
        self.total = run.config.total_timesteps
        self.log_freq = options.points(self.total)
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
        self.beat: Callable[[], None] = lambda: None
        """Called from time to time in an evaluation, for who waits."""
        self.faults = Faults(run, lambda: (max(self._steps), self.saver.path))
        self.callbacks = Callbacks(callbacks, Progress(trainer, run, display.say))
        infos = Infos(options.log_info, len(run.seeds))
        infos.load(self.standing.infos)
        self.reporter = Reporter(trainer, self.log, self.faults, self.callbacks, infos)
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
                self._begin()
                self._evaluate()  # what another process left to do
                self.trainer.run(self)
                self._finish()
                self.callbacks.call("on_end")
        finally:
            self.close()

    def _begin(self) -> None:
        """Let the callbacks begin, or go on where they stood."""
        self.callbacks.restore(self.standing.callbacks)
        self.callbacks.call("on_start")

    def close(self) -> None:
        """Release environments, files and the directory, each even where another cannot be."""
        with ExitStack() as stack:
            stack.callback(self.lock.release)
            stack.callback(self.log.close)
            stack.callback(self.trainer.close)

    def wants(self, steps: int) -> bool:
        """Whether numbers will be logged after so many further env steps of some seed."""
        return is_logged(self.trainer.outcomes, self.log_freq, self.total, steps)

    def after(self) -> None:
        """What is due after an iteration: a logged point, a checkpoint, an evaluation."""
        before, self._before = self._before, self._steps

        def due(freq: int) -> list[int]:
            """Seeds whose env steps crossed a multiple of ``freq``."""
            pairs = enumerate(zip(before, self._before, strict=True))
            return [i for i, (old, now) in pairs if freq and now // freq > old // freq]

        self._say_failures()
        for line in self.reporter.take():
            self.display.say(f"note: {line}")
        self.callbacks.call("on_iteration")
        self.reporter.write(due(self.log_freq))
        self.display.update(self.reporter.status(self.total))
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

    def save(self) -> None:
        """Write a checkpoint, unless nothing has moved since the last."""
        self.standing.infos = self.reporter.infos.state()
        self.standing.callbacks = self.callbacks.states()
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
            numbers = judge(self.run, outcome, path, self.options.eval_episodes, self._polled)
            if numbers is None:
                return
            if path is not None and numbers:
                with self.faults.writing():
                    keep_best(self.run, outcome.seed, path, numbers["eval/mean_reward"])
            self.standing.evaluated[i] = outcome.steps
            self.standing.pending.pop(0)
            self.reporter.row(i, numbers)
            if outcome.evaluation is not None:
                self.callbacks.call("on_evaluation", outcome.seed)
        self._say_failures()

    def _polled(self) -> bool:
        """Whether an evaluation is to be given up."""
        self.beat()
        return self.stopped

    @property
    def status(self) -> int:
        """Exit status: 128 + the signal that ended it, 1 where a seed failed, else 0."""
        return exit_status(self.signal, self.trainer.outcomes)

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
