"""Environments that do not answer: how long is waited for them, and what ends the wait."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Hashable
from types import FrameType

from rlgrad.errors import UsageError, shown

VARIABLE = "RLGRAD_STEP_TIMEOUT"
SECONDS = 60.0  # unless the variable says other
TICK = 1.0  # seconds between two looks
# One that nothing else is likely to use; where there is none, nothing is interrupted.
_SIGNAL: int | None = getattr(signal, "SIGRTMIN", None) or getattr(signal, "SIGUSR2", None)


def patience() -> float:
    """Seconds that a step or a reset of one environment may take: 60, or RLGRAD_STEP_TIMEOUT.

    Raises:
        UsageError: where the variable is no number above 0.
    """
    text = os.environ.get(VARIABLE, "")
    try:
        seconds = float(text) if text else SECONDS
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise UsageError(f"{VARIABLE} = {shown(text)}; expected seconds above 0, or inf")
    return seconds


class HangingError(BaseException):
    """Raised inside an environment that has been waited for long enough.

    No ``Exception``, so that an environment that catches those does not go on.
    """


class Wait:
    """How long something has stood still, by looks a tick apart.

    Looks are counted, not seconds: a process that was stopped as a whole has not waited.

    Args:
        seconds: until it counts as hanging.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.tick = min(TICK, seconds / 4)
        self._last: Hashable = None
        self._looks = 0

    def over(self, now: Hashable) -> bool:
        """Whether it has stood at ``now`` for too long; None: it stands nowhere."""
        self._looks = self._looks + 1 if now is not None and now == self._last else 0
        self._last = now
        return self._looks * self.tick >= self.seconds


class Watch:
    """Interrupts the main thread where an environment keeps it for too long.

    It is a signal that ends the wait, so code that never comes back to Python is not interrupted,
    nor is a thread other than the main one.
    """

    def __init__(self) -> None:
        self.standing: Callable[[], Hashable] | None = None
        """Tells where the main thread is in its environments; None: it is elsewhere."""
        self._process, self._seconds = 0, SECONDS
        self._stuck: Hashable = None

    def start(self) -> None:
        """Watch this process from now on, if that can be done, with the patience of today."""
        self._seconds = patience()
        main = threading.main_thread()
        if self._process == os.getpid() or main is not threading.current_thread():
            return
        if _SIGNAL is None or not hasattr(signal, "pthread_kill"):
            return
        self._process = os.getpid()
        with contextlib.suppress(OSError, ValueError):
            signal.signal(_SIGNAL, self._interrupt)
            threading.Thread(target=self._look, args=(main.ident,), daemon=True).start()

    def _look(self, main: int) -> None:
        assert _SIGNAL is not None
        wait = Wait(self._seconds)
        while True:
            time.sleep(wait.tick)
            now = self._now()
            over = wait.over(now)
            if over:
                self._stuck = now
                signal.pthread_kill(main, _SIGNAL)
            if over or wait.seconds != self._seconds:
                wait = Wait(self._seconds)

    def _now(self) -> Hashable:
        standing = self.standing
        return None if standing is None else standing()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        now = self._now()
        if now is not None and now == self._stuck:
            self.standing = None
            raise HangingError(no_answer(self._seconds))


WATCH = Watch()


def no_answer(seconds: float) -> str:
    """What to tell of an environment that hangs."""
    return f"gave no answer for {seconds:g} s ({VARIABLE} sets how many are waited)"
