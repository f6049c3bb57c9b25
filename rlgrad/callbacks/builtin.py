"""Callbacks that many trainings want."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, SupportsFloat

from rlgrad.callbacks.base import Callback, Progress
from rlgrad.engine import WINDOW
from rlgrad.infos import parse_wanted


class StopOnReward(Callback):
    """Ends a seed's training once its mean return reaches a score.

    ``stop_when_solved=True`` does the same with the environment's own score, without a callback.

    Args:
        score: mean return that is enough.
        evaluation: of the sampled episodes of the last evaluation (see ``eval_freq``), instead of
            the last 100 training episodes.
        together: let all seeds train on until each of those that train has reached it once.
    """

    def __init__(
        self, score: int | float, *, evaluation: bool = False, together: bool = False
    ) -> None:
        self.score, self.evaluation, self.together = score, evaluation, together
        self.reached: set[int] = set()

    def on_iteration(self, progress: Progress) -> None:
        """Look at the last training episodes."""
        for seed in () if self.evaluation else progress.running:
            outcome = progress.outcome(seed)
            if outcome.episodes >= WINDOW:
                self._take(progress, seed, outcome.mean_return)

    def on_evaluation(self, progress: Progress, seed: int) -> None:
        """Look at the evaluation."""
        found = progress.outcome(seed).evaluation
        if self.evaluation and found is not None:
            self._take(progress, seed, found["sampled"]["mean"])

    def _take(self, progress: Progress, seed: int, mean: float) -> None:
        """A seed's mean return; stop where it is enough."""
        if mean < self.score:
            return
        self.reached.add(seed)
        steps = progress.outcome(seed).steps
        why = f"its return of {mean:.4g} reached {self.score:g} at {steps:,} env steps"
        if not self.together:
            progress.stop(seed, why)
        elif self.reached.issuperset(progress.running):
            progress.stop(None, f"the return of every seed has reached {self.score:g}")

    def state(self) -> dict[str, Any]:
        """Which seeds have reached it."""
        return {"reached": sorted(self.reached)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on with them."""
        self.reached = set(state["reached"])


class CustomScalars(Callback):
    """Logs what a function of yours gives, to metrics.jsonl and TensorBoard.

    Args:
        function: takes the ``Progress`` and a seed, gives numbers by tag, such as
            ``{"probe/left": 0.5}``; called at every logged point of the seed.
    """

    def __init__(self, function: Callable[[Progress, int], Mapping[str, SupportsFloat]]) -> None:
        self.function = function

    def on_log(self, progress: Progress, seed: int) -> Mapping[str, SupportsFloat]:
        """Ask the function."""
        return self.function(progress, seed)


class InfoScalars(Callback):
    """Logs a number of the environment's infos as ``info/KEY``: ``--log-info KEY:REDUCE``.

    Args:
        key: of the info; ``a.b`` is ``info["a"]["b"]``, ``a.0`` the first of a sequence.
        reduce: mean, min or max of all steps since the last logged point; end: the mean over
            episodes of what their last step gave.

    Raises:
        UsageError: for another reduction.
    """

    def __init__(self, key: str, reduce: str = "mean") -> None:
        text = f"{key}:{reduce}"
        parse_wanted(text)
        self.infos = (text,)
