"""Seconds of training alone: start-up, logging, checkpoints and evaluation are not in them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Seconds(NamedTuple):
    """``cpu``, of all threads of this process and of those that work for it, and ``wall``."""

    cpu: float
    wall: float


class Clock:
    """Runs inside ``with clock:``, stands still before, after and inside ``with clock.paused():``.

    rlgrad's agents and their peers are timed by it alike.

    Args:
        spent: before, by processes that this one goes on from.
        beside: CPU-seconds that other processes have spent for this one so far.
    """

    def __init__(
        self, spent: Seconds | None = None, beside: Callable[[], float] = lambda: 0.0
    ) -> None:
        self._spent, self._beside = spent or Seconds(0.0, 0.0), beside
        self._since: Seconds | None = None

    def _now(self) -> Seconds:
        return Seconds(time.process_time() + self._beside(), time.monotonic())

    def __enter__(self) -> Clock:
        self._since = self._now()
        return self

    def __exit__(self, *error: object) -> None:
        self._spent, self._since = self.read(), None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stand still, then run on."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()

    def read(self) -> Seconds:
        """What was spent so far."""
        if self._since is None:
            return self._spent
        now = self._now()
        return Seconds(
            self._spent.cpu + now.cpu - self._since.cpu,
            self._spent.wall + now.wall - self._since.wall,
        )
