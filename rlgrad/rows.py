"""What environments and who steps them tell each other: arrays with a row per lane."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from numpy.typing import NDArray

from rlgrad.errors import TracedError

Lane = Callable[[], gymnasium.Env[Any, Any]]
UNSEEDED = IDLE = UNMADE = -1


class Rows(NamedTuple):
    """Arrays ``[L, ...]``, in this process or shared by several."""

    observation: NDArray[Any]
    """``[L, *shape]``, what the next action is for."""
    final: NDArray[Any]
    """``[L, *shape]``, the last observation of the lane's last episode that ended."""
    action: NDArray[Any]
    """``[L, *shape]``, as the environments take them."""
    reward: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    seed: NDArray[np.int64]
    """What the reset of the present episode was given; -1: nothing, or it is under way."""
    time: NDArray[np.int64]
    """Steps of the present episode, with one that is under way; 0: its reset; -1: not yet made."""
    at: NDArray[np.int64]
    """In a chunk's first row: which of its environments is being played; -1: none."""

    def part(self, lanes: slice) -> Rows:
        """Views of some lanes."""
        arrays: list[Any] = [each[lanes] for each in self]
        return Rows(*arrays)


def layout(lanes: int, observation: Any, action: Any) -> list[tuple[tuple[int, ...], Any]]:
    """(shape, dtype) of each of the ``Rows``.

    Args:
        lanes: L.
        observation: batched space of observations.
        action: batched space of actions.
    """
    x, number, flag = (observation.shape, observation.dtype), (lanes,), np.dtype(np.bool_)
    count = number, np.dtype(np.int64)
    a = action.shape, action.dtype
    return [x, x, a, (number, np.dtype(np.float64)), (number, flag), (number, flag), *[count] * 3]


def standing(rows: Rows) -> tuple[int, int]:
    """Which of a chunk's environments is being played, and at which step of its episode."""
    at = int(rows.at[0])
    return at, int(rows.time[at])


def moment(rows: Rows, lane: int) -> str:
    """Where a lane stands in its episode, in words."""
    seed, time = int(rows.seed[lane]), int(rows.time[lane])
    if time == UNMADE:
        return "when it was made"
    begun = f"reset(seed={seed})" if seed != UNSEEDED else "a reset"
    return f"at step {time} of the episode that {begun} began" if time else f"at {begun}"


def name_of(env: gymnasium.Env[Any, Any]) -> str:
    """An environment's id, or its class's name."""
    return type(env.unwrapped).__name__ if env.spec is None else env.spec.id


class LaneError(TracedError):
    """Environments that failed while they were played.

    Args:
        name: the environment's.
        what: it did, such as "raised OSError: no such file".
        lanes: their numbers in the vector environment.
        moment: of the episode, see ``moment``; empty: not in an episode.
        details: the environment's own traceback; empty: there is none.
    """

    file = "environment-error.txt"

    def __init__(
        self, name: str, what: str, lanes: range, moment: str = "", details: str = ""
    ) -> None:
        super().__init__(name, what, lanes, moment, details)
        self.name, self.what, self.lanes, self.moment = name, what, lanes, moment
        self.details = details
        self.seeds: Sequence[int] = ()
        """That the lanes are of, seed by seed; empty: not known."""
        self.each = 0
        """Lanes of a seed, where seeds are known."""
        self.role = ""
        """What the seeds' lanes are for, such as "the evaluation of "; empty: training."""

    def _owner(self, lane: int) -> str:
        if not self.seeds:
            return f"environment {lane}"
        return f"environment {lane % self.each} of {self.role}seed {self.seeds[lane // self.each]}"

    def __str__(self) -> str:
        first, last = self._owner(self.lanes[0]), self._owner(self.lanes[-1])
        where = first if len(self.lanes) == 1 else f"{first} to {last}"
        when = f", {self.moment}" if self.moment else ""
        kept = f"; its traceback is in {self.kept}" if self.kept else ""
        return f"{self.name} {self.what} in {where}{when}{kept}"
