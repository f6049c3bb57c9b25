"""A trainer with everything around it: logging, checkpoints, evaluation, signals, the result."""

from __future__ import annotations

import dataclasses
import json
import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from torch import Tensor

from rlgrad import store
from rlgrad.config import as_table
from rlgrad.display import Display, Status
from rlgrad.evaluation import evaluate, load_learner
from rlgrad.log import Log
from rlgrad.store import Run
from rlgrad.trainer import Outcome, Trainer


class Session:
    """A trainer with everything around it.

    Args:
        trainer: ready to step.
        run: the directory that it writes to.
        display: what a person sees.
    """

    def __init__(self, trainer: Trainer, run: Run, display: Display) -> None:
        self.trainer, self.run, self.display = trainer, run, display
        self.options, config = trainer.options, trainer.config
        self.total = config.total_timesteps
        self.log_freq = self.options.log_freq or max(1, self.total // 50)
        card = (run.path / "card.toml").read_text("utf-8")
        self.log = Log(run.path, run.seeds, card, as_table(config))
        self.signal = 0
        self._started, self._cpu = time.monotonic(), time.process_time()
        self._saved: tuple[int, ...] = ()
        self._evaluated: dict[int, int] = {}
        self.ended: dict[str, float] = {}

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

    def _due(self, freq: int, before: Sequence[int]) -> list[int]:
        """Seeds whose env steps crossed a multiple of ``freq`` since ``before``."""
        return [
            i
            for i, outcome in enumerate(self.trainer.outcomes)
            if freq and outcome.steps // freq > before[i] // freq
        ]

    def go(self) -> None:
        """Train all seeds to their end, then evaluate and write the result."""
        try:
            with self._signals(), self.display:
                while any(self.trainer.active) and not self.signal:
                    self._advance()
                self._finish()
        finally:
            self.trainer.close()
            self.log.close()

    def _advance(self) -> None:
        """One iteration, and what is due after it."""
        trainer, options = self.trainer, self.options
        before = [outcome.steps for outcome in trainer.outcomes]
        rollout = trainer.config.num_envs * trainer.length
        # Whole episodes differ in length, so then every update is measured.
        measure = trainer.whole or any(
            steps // self.log_freq < (steps + rollout) // self.log_freq
            or steps + rollout >= self.total
            for steps in before
        )
        numbers = trainer.step(measure)
        self._write(self._due(self.log_freq, before), numbers)
        self.display.update(self._status())
        if self._due(options.save_freq, before):
            self.save()
        self._evaluate(self._due(options.eval_freq, before))

    def _finish(self) -> None:
        """The last checkpoint, the last evaluation, and how it all ended."""
        outcomes = self.trainer.outcomes
        for outcome in outcomes:
            if outcome.status == "running":
                outcome.status = "interrupted"
        self.save()
        if not self.signal:
            self._evaluate([i for i, o in enumerate(outcomes) if o.status != "failed"])
        self.ended = self._seconds()
        store.write_whole(self.run.path / "result.json", json.dumps(self.result()).encode())

    def _write(self, due: Sequence[int], numbers: dict[str, Tensor]) -> None:
        """Log the seeds that are due."""
        if not due:
            return
        columns = {tag: x.tolist() for tag, x in numbers.items()}
        trainer = self.trainer
        fps = sum(o.steps for o in trainer.outcomes) / (time.monotonic() - self._started)
        for i in due:
            outcome = trainer.outcomes[i]
            shared = {
                "rollout/ep_rew_mean": outcome.mean_return,
                "rollout/ep_len_mean": outcome.mean_length,
                "time/fps": fps,
                "train/learning_rate": trainer.learning_rate(outcome.steps),
                "train/n_updates": float(trainer.iteration),
            }
            own = {tag: column[i] for tag, column in columns.items()}
            self.log.write(outcome.seed, outcome.steps, {**shared, **own})
        self.log.flush()

    def _status(self) -> Status:
        outcomes = self.trainer.outcomes
        means = [o.mean_return for o in outcomes if not math.isnan(o.mean_return)]
        steps = [o.steps for o in outcomes]
        running = [o.steps for o in outcomes if o.status == "running"]
        return Status(
            min(running, default=max(steps)),
            self.total,
            len(running),
            len(outcomes),
            sum(o.solved_at_step is not None for o in outcomes),
            sum(means) / len(means) if means else float("nan"),
            sum(steps) / (time.monotonic() - self._started),
        )

    def save(self) -> None:
        """Write a checkpoint, unless nothing has moved since the last."""
        trainer = self.trainer
        steps = tuple(outcome.steps for outcome in trainer.outcomes)
        if steps == self._saved:
            return
        counters = {
            "iteration": trainer.iteration,
            "steps": steps,
            "seeds": list(self.run.seeds),
            "features": trainer.lanes.features,
            "actions": list(trainer.lanes.actions.sizes),
            "observation_scale": trainer.scale,
        }
        path = store.save_checkpoint(self.run, trainer.learner.state_dict(), counters)
        for old in self.run.checkpoints():
            if old != path and not self.options.save_freq:
                old.unlink()
        self._saved = steps

    def _evaluate(self, due: Sequence[int]) -> None:
        """Evaluate seeds from a checkpoint of where they stand, once per step, and log it."""
        due = [i for i in due if self._evaluated.get(i) != self.trainer.outcomes[i].steps]
        if not due:
            return
        self.save()
        for i in due:
            outcome = self.trainer.outcomes[i]
            learner, _ = load_learner(self.run, outcome.seed)
            evaluation = evaluate(
                learner,
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
            self.log.write(outcome.seed, outcome.steps, numbers)

    def _seconds(self) -> dict[str, float]:
        wall, cpu = time.monotonic() - self._started, time.process_time() - self._cpu
        return {"wall_seconds": wall, "cpu_seconds": cpu}

    def result(self) -> dict[str, Any]:
        """How the run ended, as plain numbers."""
        return {
            "run": str(self.run.path),
            "environment": self.run.env_id,
            "agent": self.run.agent,
            "solved_at": self.trainer.solved_at,
            "signal": self.signal,
            **(self.ended or self._seconds()),
            "seeds": [_plain(outcome) for outcome in self.trainer.outcomes],
        }


def _plain(outcome: Outcome) -> dict[str, Any]:
    table = dataclasses.asdict(outcome)
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in table.items()}
