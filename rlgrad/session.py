"""A trainer with everything around it: logging, checkpoints, evaluation, signals, the result."""

from __future__ import annotations

import dataclasses
import json
import math
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from rlgrad import store
from rlgrad.display import Display, Status
from rlgrad.engine import Engine, Outcome
from rlgrad.evaluation import evaluate
from rlgrad.loading import load_policy
from rlgrad.log import Log
from rlgrad.options import Options
from rlgrad.output import write_whole
from rlgrad.peer_cards import hyperparameters
from rlgrad.store import Run


class Session:
    """A trainer with everything around it.

    Args:
        trainer: ready to train, rlgrad's own or a peer.
        run: the directory that it writes to.
        display: what a person sees.
        options: how to train.
    """

    def __init__(self, trainer: Engine, run: Run, display: Display, options: Options) -> None:
        self.trainer, self.run, self.display, self.options = trainer, run, display, options
        self.total = run.config.total_timesteps
        self.log_freq = options.log_freq or max(1, self.total // 50)
        card = (run.path / "card.toml").read_text("utf-8")
        self.log = Log(run.path, run.seeds, card, hyperparameters(run.config, run.peer))
        self.signal = 0
        self._before = self._steps
        self._saved: list[int] = []
        self._evaluated: dict[int, int] = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number
        self.display.say("stopping; press Ctrl-C again to stop at once")

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM end the run between rollouts, with a checkpoint."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {n: signal.signal(n, self._handle) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @property
    def _steps(self) -> list[int]:
        return [outcome.steps for outcome in self.trainer.outcomes]

    @property
    def stopped(self) -> bool:
        """Whether a signal asked for the end."""
        return bool(self.signal)

    def go(self) -> None:
        """Train all seeds to their end, then evaluate and write the result."""
        try:
            with self._signals(), self.display:
                self.trainer.run(self)
                self._finish()
        finally:
            self.trainer.close()
            self.log.close()

    def wants(self, steps: int) -> bool:
        """Whether numbers will be logged after so many further env steps of some seed."""
        return any(
            now // self.log_freq < (now + steps) // self.log_freq or now + steps >= self.total
            for now in self._steps
        )

    def after(self) -> None:
        """What is due after an iteration: a logged point, a checkpoint, an evaluation."""
        before, self._before = self._before, self._steps

        def due(freq: int) -> list[int]:
            """Seeds whose env steps crossed a multiple of ``freq``."""
            pairs = enumerate(zip(before, self._before, strict=True))
            return [i for i, (old, now) in pairs if freq and now // freq > old // freq]

        self._write(due(self.log_freq))
        self.display.update(self._status())
        if due(self.options.save_freq):
            self.save()
        self._evaluate(due(self.options.eval_freq))

    def _finish(self) -> None:
        """The last checkpoint, the last evaluation, and how it all ended."""
        outcomes = self.trainer.outcomes
        for outcome in outcomes:
            if outcome.status == "running":
                outcome.status = "interrupted"
        self.save()
        if not self.signal:
            self._evaluate([i for i, o in enumerate(outcomes) if o.status != "failed"])
        write_whole(self.run.path / "result.json", json.dumps(self.result()).encode())

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
            self.log.flush()

    def _log(self, i: int, numbers: Mapping[str, float]) -> None:
        """A row of seed number i, with its clock."""
        outcome, seconds = self.trainer.outcomes[i], self.trainer.seconds(i)
        clock = {"time/cpu_seconds": seconds.cpu, "time/wall_seconds": seconds.wall}
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
        if self._steps == self._saved:
            return
        path = store.save_checkpoint(self.run, *self.trainer.state())
        for old in self.run.checkpoints():
            if old != path and not self.options.save_freq:
                old.unlink()
        self._saved = self._steps

    def _evaluate(self, due: Sequence[int]) -> None:
        """Evaluate seeds from a checkpoint of where they stand, once per step, and log it."""
        due = [i for i in due if self._evaluated.get(i) != self.trainer.outcomes[i].steps]
        if not due:
            return
        self.save()
        for i in due:
            outcome = self.trainer.outcomes[i]
            evaluation = evaluate(
                load_policy(self.run, outcome.seed),
                self.run.env_id,
                outcome.seed,
                self.options.eval_episodes,
                env_kwargs=self.run.env_kwargs,
                max_episode_steps=self.run.config.max_episode_steps,
                stop=lambda: bool(self.signal),
            )
            if evaluation is None:
                return
            outcome.evaluation, self._evaluated[i] = evaluation.to_dict(), outcome.steps
            numbers = {
                "eval/mean_reward": evaluation.sampled.mean,
                "eval/mean_reward_argmax": evaluation.argmax.mean,
                "eval/mean_ep_length": evaluation.sampled.mean_length,
            }
            self._log(i, numbers)

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
            "seeds": [_plain(outcome) for outcome in self.trainer.outcomes],
        }


def _plain(outcome: Outcome) -> dict[str, Any]:
    table = dataclasses.asdict(outcome)
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in table.items()}
