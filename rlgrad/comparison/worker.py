"""A process that trains blocks of seeds for a comparison: tasks come as lines of JSON, news go out.

    python -m rlgrad.comparison.worker

One line in: what to train. Lines out: ``{"status": [...]}`` along the way, then ``{"run": path}``
or ``{"error": text}``. Standard output belongs to this protocol alone; whatever an environment
prints goes to standard error. It ends when its standard input does.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlgrad.allocator import keep_freed_memory
from rlgrad.comparison.process import Wire
from rlgrad.display import Display, Status
from rlgrad.errors import UsageError

if TYPE_CHECKING:
    from rlgrad.ranks.leading import Following
    from rlgrad.session import Session

EVERY = 0.2  # seconds between lines of status


class Reporter(Display):
    """What a person would see, as lines for the process that draws it."""

    def __init__(self, wire: Wire) -> None:
        super().__init__("", quiet=True)
        self._wire, self._sent = wire, 0.0

    def update(self, status: Status) -> None:
        """Send where training stands, now and then."""
        now = time.monotonic()
        if now - self._sent >= EVERY:
            self._wire.send(status=list(status))
            self._sent = now


def _begun(task: dict[str, Any], display: Display) -> Session | Following:
    """The session of a task: a new run below its root, or one in there that goes on."""
    from rlgrad.comparison.plan import stepping
    from rlgrad.options import checked
    from rlgrad.resuming import restart
    from rlgrad.sending import unpacked
    from rlgrad.training import start

    if task.get("resume"):
        path = Path(task["root"]) / task["resume"]
        return restart(path, env_modules=task["env_modules"], display=display)
    resolved = unpacked(task["what"])
    options = {**task["options"], "log_dir": task["root"], "quiet": True}
    return start(resolved, task["seeds"], checked({**options, "vec": stepping(resolved)}), display)


def _train(task: dict[str, Any], wire: Wire) -> dict[str, Any]:
    """Train one block; returns the last line."""
    try:
        session = _begun(task, Reporter(wire))
        session.go()
        return {"run": str(session.run.path), "signal": session.signal}
    except UsageError as error:
        return {"error": str(error)}
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}


def serve(train: Callable[[dict[str, Any], Wire], dict[str, Any]]) -> None:
    """Do tasks until there are no more.

    Args:
        train: does one; returns the last line of its news.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the caller's to handle
    keep_freed_memory()
    wire = Wire(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)
    for line in sys.stdin:
        wire.send(**train(json.loads(line), wire))


if __name__ == "__main__":
    serve(_train)
