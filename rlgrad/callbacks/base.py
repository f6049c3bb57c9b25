"""What a callback is, and what it sees of a training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, SupportsFloat

from rlgrad.agent import Agent
from rlgrad.clock import Seconds
from rlgrad.engine import Engine, Outcome
from rlgrad.errors import UsageError
from rlgrad.loading import agent_of
from rlgrad.store import Run


class Progress:
    """A training as callbacks see it: to be read, and to be stopped.

    Args:
        engine: that trains.
        run: that it writes to.
        say: shows a line.
    """

    def __init__(self, engine: Engine, run: Run, say: Callable[[str], None]) -> None:
        self._engine, self._say = engine, say
        self.run = run
        """The run directory, with the card that is trained."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """All seeds of the run."""
        return self.run.seeds

    @property
    def running(self) -> tuple[int, ...]:
        """Seeds that still train; of a peer also those whose turn is yet to come."""
        return tuple(each.seed for each in self._engine.outcomes if each.status == "running")

    @property
    def total_timesteps(self) -> int:
        """Env steps asked for per seed."""
        return self.run.config.total_timesteps

    @property
    def seconds(self) -> Seconds:
        """CPU and wall-clock seconds of training so far, all seeds together."""
        return self._engine.seconds()

    def _row(self, seed: int) -> int:
        if seed not in self.seeds:
            names = ", ".join(map(str, self.seeds))
            raise UsageError(f"the run has no seed {seed}; it has {names}")
        return self.seeds.index(seed)

    def outcome(self, seed: int) -> Outcome:
        """Where a seed stands: status, env steps, mean return, evaluation; a copy.

        Raises:
            UsageError: where the run has no such seed.
        """
        return replace(self._engine.outcomes[self._row(seed)])

    def agent(self, seed: int) -> Agent:
        """A seed's policy as it now stands: a copy, which training does not change any more.

        Raises:
            UsageError: where the run has no such seed, or a peer has not begun it yet.
        """
        self._row(seed)
        return agent_of(self.run, seed, *self._engine.state())

    def stop(self, seed: int | None = None, why: str = "a callback asked for it") -> None:
        """End training of a seed as it stands; it is evaluated like any that has ended.

        Args:
            seed: which; None: all. One that has ended already stays as it is.
            why: told in the summary and in result.json.
        """
        rows = range(len(self.seeds)) if seed is None else [self._row(seed)]
        for outcome in (self._engine.outcomes[i] for i in rows):
            if outcome.status == "running":
                outcome.status, outcome.reason = "stopped", why

    def say(self, line: str) -> None:
        """Show a line that stays, above the live display where there is one."""
        self._say(line)


class Callback:
    """Called while a run trains; a subclass says what it does by the methods that it writes.

    Nothing that a callback does changes a bit of the training of seeds that it does not stop.
    """

    infos: Sequence[str] = ()
    """Numbers of the environment's infos to be logged, as ``--log-info`` takes them."""

    def on_start(self, progress: Progress) -> None:
        """Before training begins, or goes on."""

    def on_iteration(self, progress: Progress) -> None:
        """After a rollout and its update; on a GPU after up to 16 of them."""

    def on_log(self, progress: Progress, seed: int) -> Mapping[str, SupportsFloat]:
        """Numbers by tag, to be logged with the others of a seed, every ``--log-freq``."""
        return {}

    def on_evaluation(self, progress: Progress, seed: int) -> None:
        """After an evaluation of a seed, ``progress.outcome(seed).evaluation``."""

    def on_end(self, progress: Progress) -> None:
        """After the result has been written; not where a fault ended the run."""

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to go on as if nothing had happened: data that JSON has."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what ``state`` gave; before ``on_start`` of a resumed run."""


HOOKS = ("on_start", "on_iteration", "on_log", "on_evaluation", "on_end")
