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
from typing import IO, Any

from rlgrad.allocator import keep_freed_memory
from rlgrad.display import Display, Status
from rlgrad.errors import UsageError

EVERY = 0.2  # seconds between lines of status


class _Wire:
    """Lines of JSON to the process that waits for them."""

    def __init__(self, file: IO[str]) -> None:
        self.file = file

    def send(self, **news: Any) -> None:
        """A line; where nobody listens any more, training stops as on a SIGTERM."""
        try:
            self.file.write(json.dumps(news) + "\n")
            self.file.flush()
        except (BrokenPipeError, ValueError):
            os.kill(os.getpid(), signal.SIGTERM)


class _Reporter(Display):
    """What a person would see, as lines for the process that draws it."""

    def __init__(self, wire: _Wire) -> None:
        super().__init__("", quiet=True)
        self._wire, self._sent = wire, 0.0

    def update(self, status: Status) -> None:
        """Send where training stands, now and then."""
        now = time.monotonic()
        if now - self._sent >= EVERY:
            self._wire.send(status=list(status))
            self._sent = now


def _train(task: dict[str, Any], wire: _Wire) -> dict[str, Any]:
    """Train one block; returns the last line."""
    from rlgrad import cards
    from rlgrad.comparison.plan import stepping
    from rlgrad.options import checked
    from rlgrad.training import start

    try:
        resolved = cards.resolve(
            task["env"], task["agent"], None, task["flags"], task["env_kwargs"], task["env_modules"]
        )
        options = checked({**task["options"], "quiet": True, "vec": stepping(resolved)})
        session = start(resolved, task["seeds"], options, _Reporter(wire))
        session.go()
        return {"run": str(session.run.path), "signal": session.signal}
    except UsageError as error:
        return {"error": str(error)}
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}


def main() -> None:
    """Serve tasks until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the caller's to handle
    keep_freed_memory()
    wire = _Wire(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)
    for line in sys.stdin:
        wire.send(**_train(json.loads(line), wire))


if __name__ == "__main__":
    main()
