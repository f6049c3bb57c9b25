"""A trainer whose iterations are replays of a CUDA graph; its host looks in now and then."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from rlgrad.captured.graphs import Graphs
from rlgrad.captured.program import Place, Program
from rlgrad.captured.tally import FAILED, OBSERVATION, REWARD, STATUS, Tally
from rlgrad.clock import Seconds
from rlgrad.engine import Engine, Outcome, Watch, diverged, listed
from rlgrad.errors import UsageError
from rlgrad.infos import Taken
from rlgrad.trainer import Trainer

EVERY = 16
"""Iterations after which the host reads the counters, at the latest."""
_CAUSES = {REWARD: "reward", OBSERVATION: "observation"}


def why_not(trainer: Trainer) -> str:
    """What keeps a trainer's iteration from being one program on the device; empty: nothing."""
    if trainer.lanes.simulator is None:
        return "the environment steps on the CPU"
    if trainer.whole:
        return "whole episodes have no fixed number of steps"
    if trainer.device.type != "cuda":
        return f"there are no CUDA graphs on {trainer.device.type}"
    return ""


def captured(trainer: Trainer, wanted: Literal["auto", "on", "off"]) -> Engine:
    """The trainer with captured iterations where that is wanted and works, else as it is.

    Raises:
        UsageError: where it is asked for and does not work.
    """
    why = "--capture off" if wanted == "off" else why_not(trainer)
    if not why:
        try:
            return Captured(trainer)
        except RuntimeError as error:  # of CUDA, for an operation that cannot be recorded
            why = str(error).split("\n")[0]
    if wanted == "on":
        trainer.close()
        raise UsageError(f"--capture on, but {why}; use --capture auto or off")
    if trainer.device.type == "cuda":
        trainer.notes.append(f"iterations are not captured as a CUDA graph: {why}")
    if trainer.options.compile:
        trainer.notes.append(f"--compile has no effect: {why}")
    return trainer


def _tally(trainer: Trainer) -> Tally:
    """Counters that stand where the trainer stands."""
    S, N = len(trainer.seeds), trainer.config.num_envs
    tally = Tally(
        S,
        N,
        trainer.episodes.window,
        trainer.config.total_timesteps,
        trainer.solved_at,
        trainer.options.stop_when_solved,
    )
    tally.take(trainer.episodes.state())
    for i, outcome in enumerate(trainer.outcomes):
        tally.steps[i] = outcome.steps
        tally.status[i] = STATUS.index(outcome.status)
        step = outcome.solved_at_step
        tally.solved_at_step[i] = -1 if step is None else step
    return tally.to(trainer.device)


class Captured:
    """An ``Engine``: a trainer with its iterations as one program on the device.

    Args:
        trainer: at its start, or where a checkpoint put it; for agents that learn from rollouts of
            a fixed length, on a simulator.
        recorded: whether the program is replayed as a CUDA graph, or run operation by operation,
            which works on every device.

    Raises:
        RuntimeError: where the program cannot be recorded; the trainer stands where it stood.
    """

    def __init__(self, trainer: Trainer, recorded: bool = True) -> None:
        self.trainer, self.outcomes = trainer, trainer.outcomes
        self.solved_at, self.together = trainer.solved_at, trainer.together
        self.notes, self.where, self.vec = trainer.notes, trainer.where, trainer.vec
        self.masked = trainer.masked
        if trainer.observation is None:
            trainer.observation = trainer.lanes.reset(trainer.lane_seeds(trainer.iteration))
        self.program = Program(
            trainer.config,
            trainer.learner,
            trainer.lanes,
            trainer.streams,
            Place(trainer.lanes, trainer.observation, trainer.length),
            _tally(trainer),
            trainer.kept,
            trainer.iteration,
            trainer.ranks,
        )
        trainer.observation = self.program.place.observation
        if trainer.options.compile:
            self.program.compile()
        self._done: set[int] = set()
        self.iterate: Any = self.program
        if recorded:
            self.iterate = Graphs(self.program, trainer.critic_steps())
            self.where += "; each iteration is one replay of a CUDA graph"
            steps = ", its simulator and noise compiled" if trainer.options.compile else ""
            self.notes.append(f"iterations are captured as a CUDA graph{steps}")

    def step(self, measure: bool = False) -> dict[str, Tensor]:
        """One iteration of all seeds, which is not waited for; see ``Trainer.step``."""
        numbers: dict[str, Tensor] = self.iterate(self.trainer.critic_steps(), measure)
        self.trainer.iteration += 1
        return numbers

    def read(self) -> None:
        """Wait for the device, and bring the outcomes of the seeds that trained up to date."""
        tally = self.program.tally
        counters = [tally.steps, tally.count, tally.status, tally.cause, tally.solved_at_step]
        plain = torch.stack(counters, 1).tolist()
        means, seconds = tally.means().T.tolist(), self.trainer.clock.read()
        for outcome, numbers, mean in zip(self.outcomes, plain, means, strict=True):
            if outcome.status == "running":
                _bring(outcome, numbers, (mean[0], mean[1]), seconds)

    def _freeze(self) -> None:
        """Let the device know of seeds that an evaluation or a callback has ended."""
        for i, outcome in enumerate(self.outcomes):
            if outcome.status != "running" and i not in self._done:
                self.program.tally.status[i] = STATUS.index(outcome.status)
                self._done.add(i)

    def _stretch(self, watch: Watch) -> None:
        """Iterations up to the next that is logged or ends a seed, then a look at the counters."""
        trainer, config = self.trainer, self.trainer.config
        self._freeze()
        batch = config.num_envs * trainer.length
        far = max(outcome.steps for outcome in self.outcomes if outcome.status == "running")
        left = -(-(config.total_timesteps - far) // batch)
        with trainer.clock:
            for ahead in range(1, min(EVERY, left) + 1):
                measure = watch.wants(batch * ahead)
                trainer.measured = listed(self.step(measure))
                if measure:
                    break
            self.read()
            trainer.ranks.report(trainer.clock.read().cpu)

    def run(self, watch: Watch) -> None:
        """Train all seeds to their end, or until the watch stops it."""
        while any(self.trainer.active) and not watch.stopped:
            self._stretch(watch)
            watch.after()

    def numbers(self, i: int) -> dict[str, float]:
        """As ``Trainer.numbers``."""
        return self.trainer.numbers(i)

    def seconds(self, i: int | None = None) -> Seconds:
        """As ``Trainer.seconds``."""
        return self.trainer.seconds(i)

    def infos(self) -> list[Taken]:
        """As ``Trainer.infos``."""
        return self.trainer.infos()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """As ``Trainer.state``: a run may go on from it in either way."""
        self.trainer.episodes.load(self.program.tally.given())
        return self.trainer.state()

    def close(self) -> None:
        """Release the environments."""
        self.trainer.close()


def _bring(
    outcome: Outcome, numbers: list[int], means: tuple[float, float], seconds: Seconds
) -> None:
    """Take the device's counters of a seed into its outcome."""
    steps, episodes, status, cause, solved_at_step = numbers
    if solved_at_step >= 0 and outcome.solved_at_step is None:
        outcome.solved_at_step, outcome.solved_at_seconds = solved_at_step, seconds._asdict()
    outcome.count(steps, episodes, means, None, seconds)
    outcome.status = STATUS[status]
    if status == FAILED:
        given = _CAUSES.get(cause)
        outcome.reason = (
            f"the environment gave an infinite or NaN {given} after {steps:,} env steps"
            if given
            else diverged(steps)
        )
