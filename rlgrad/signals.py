"""What asks a process to end while it trains: Ctrl-C, a scheduler, a terminal that closes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

_ENDS = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP


class Signals:
    """Notes the first signal while entered; whoever trains looks at ``number`` between rollouts.

    SIGINT after that stops at once, by a KeyboardInterrupt; others repeated change nothing, since
    schedulers send SIGTERM to a process and to its group. An ignored SIGHUP (nohup) stays so.
    Outside the main thread, which alone can have handlers, nothing is noted.

    Args:
        say: shows a line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.number, self._say = 0, say
        self._before: dict[int, Any] = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.note(number)

    def note(self, number: int) -> None:
        """A signal came, to this process or to another that works with it."""
        if self.number:
            return
        self.number = number
        again = " again" if number == signal.SIGINT else ""
        # A handler may strike inside a write to the same stream, which then refuses a second one.
        with suppress(RuntimeError, OSError):
            self._say(
                f"{signal.Signals(number).name}: stopping after this rollout; "
                f"press Ctrl-C{again} to stop at once"
            )

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in _ENDS if hasattr(signal, name)):
                # A shell ignores SIGINT in its background jobs, which can be stopped all the same.
                if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        while self._before:
            number, handler = self._before.popitem()
            # None: it was not set from Python, and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
