"""What a session needs of whatever trains: rlgrad's own trainer, or a peer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

from rlgrad.clock import Seconds
from rlgrad.infos import Taken

WINDOW = 100
"""Training episodes whose mean return decides whether a seed counts as solved."""


def diverged(steps: int) -> str:
    """What to tell of a seed whose update left numbers that are not finite, after so many steps."""
    return (
        f"numbers became infinite or NaN in the update after {steps:,} env steps; "
        "a smaller --learning-rate or --max-grad-norm may help"
    )


def listed(numbers: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """Numbers ``[S]`` by tag, fetched once: seed by seed each would be waited for by itself."""
    return {tag: x.tolist() for tag, x in numbers.items()}


@dataclass
class Outcome:
    """Where a seed stands, and how it ended."""

    seed: int
    status: Literal["running", "finished", "solved", "stopped", "failed", "interrupted"] = "running"
    steps: int = 0
    """Valid env steps."""
    episodes: int = 0
    mean_return: float = float("nan")
    """Of the last 100 training episodes."""
    mean_length: float = float("nan")
    solved_at_step: int | None = None
    solved_at_seconds: dict[str, float] | None = None
    """CPU and wall seconds of training when the seed counted as solved."""
    reason: str = ""
    """Why it failed, or was stopped."""
    evaluation: dict[str, Any] | None = None

    def plain(self) -> dict[str, Any]:
        """As JSON has it: None for what is not known yet."""
        table = asdict(self)
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in table.items()}

    @classmethod
    def from_plain(cls, table: Mapping[str, Any], total: int) -> Outcome:
        """What ``plain`` gave; a seed with fewer than ``total`` env steps to its end runs on."""
        nan = {k: float("nan") for k in ("mean_return", "mean_length") if table[k] is None}
        outcome = cls(**{**table, **nan})
        if outcome.status == "interrupted" or (
            outcome.status == "finished" and outcome.steps < total
        ):
            outcome.status = "running"
        return outcome

    def count(
        self,
        steps: int,
        episodes: int,
        means: tuple[float, float],
        solved_at: float | None,
        seconds: Seconds,
    ) -> None:
        """Take in an iteration, and note when the seed first counts as solved.

        Args:
            steps: valid env steps so far.
            episodes: finished so far.
            means: return and length, over the last 100 episodes.
            solved_at: mean return at which the seed counts as solved; None: never.
            seconds: of training so far.
        """
        self.steps, self.episodes = steps, episodes
        self.mean_return, self.mean_length = means
        enough = solved_at is not None and episodes >= WINDOW and self.mean_return >= solved_at
        if enough and self.solved_at_step is None:
            self.solved_at_step, self.solved_at_seconds = steps, seconds._asdict()

    def settle(self, total: int, stop_when_solved: bool) -> None:
        """Say so where a running seed is done: solved, or ``total`` env steps taken."""
        if self.status != "running":
            return
        if self.solved_at_step is not None and stop_when_solved:
            self.status = "solved"
        elif self.steps >= total:
            self.status = "finished"


def exit_status(signal: int, outcomes: Sequence[Outcome]) -> int:
    """128 + the signal that ended a run, 1 where a seed failed, else 0."""
    return 128 + signal if signal else int(any(each.status == "failed" for each in outcomes))


def is_logged(outcomes: Sequence[Outcome], freq: int, total: int, steps: int) -> bool:
    """Whether some running seed will be logged after so many further env steps.

    Args:
        outcomes: where the seeds stand.
        freq: env steps between logged points.
        total: env steps asked for, the last of which are logged.
        steps: that each seed takes.
    """
    return any(
        now // freq < (now + steps) // freq or now + steps >= total
        for now in (outcome.steps for outcome in outcomes if outcome.status == "running")
    )


@runtime_checkable
class Watch(Protocol):
    """What an engine calls while it trains."""

    @property
    def stopped(self) -> bool:
        """Whether training is to end as soon as it can."""

    def wants(self, steps: int) -> bool:
        """Whether numbers will be logged after so many further env steps of some seed."""

    def after(self) -> None:
        """Log, save, evaluate: whatever is due."""


@runtime_checkable
class Engine(Protocol):
    """Trains S seeds."""

    outcomes: list[Outcome]
    """Of each seed; ``run`` keeps them up to date, and trains those on that are "running"."""
    solved_at: float | None
    notes: list[str]
    """What the user should hear before training."""
    where: str
    """The device, and why."""
    vec: str
    """What steps the environments, see ``Resolved.vec``."""
    masked: bool
    """Whether the environment's action masks are used."""
    together: int
    """Seeds that share the process's seconds: S, or 1 where they train one after another."""

    def run(self, watch: Watch) -> None:
        """Train all seeds to their end, or until ``watch.stopped``."""

    def numbers(self, i: int) -> Mapping[str, float]:
        """What to log of seed number i beside its outcome, by TensorBoard tag."""

    def seconds(self, i: int | None = None) -> Seconds:
        """Of training: of seed number i with those that share them; None: of the whole run."""

    def infos(self) -> Sequence[Taken]:
        """What infos gave since the last look, by seed; only where ``--log-info`` asks for it."""

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and counters for a checkpoint."""

    def close(self) -> None:
        """Release the environments."""
