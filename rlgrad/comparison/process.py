"""A process that does one task after another, and tells of it in lines of JSON.

One that dies takes down its own task only: what it last said is told, and a fresh one does the
next.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import IO, Any

GRACE = 30.0  # seconds that an interrupted worker has for its last checkpoint
_LAST_WORDS = 2_000  # bytes of a dead worker's standard error that are looked at


def is_last(news: Mapping[str, Any]) -> bool:
    """Whether nothing follows of this task."""
    return not news.keys() & {"status", "say", "waiting"}


class Wire:
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


class Worker:
    """A process that trains one task after another.

    Args:
        module: what it runs.
        env: variables of its environment beside those of this process.
    """

    def __init__(self, module: str, env: Mapping[str, str] | None = None) -> None:
        self.process: subprocess.Popen[str] | None = None
        self._module, self._env = module, dict(env or {})
        self._words: IO[bytes] | None = None

    def _start(self) -> subprocess.Popen[str]:
        self._words = tempfile.TemporaryFile()  # noqa: SIM115
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        return subprocess.Popen(
            [sys.executable, "-m", self._module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            text=True,
            encoding="utf-8",
            env={**os.environ, **self._env, "PYTHONPATH": path},
            start_new_session=True,  # so that the terminal's Ctrl-C reaches the caller alone
        )

    def send(self, told: Any) -> None:
        """A line to the process, which is started where there is none; lost if it is dying."""
        if self.process is not None and self.process.poll() is not None:
            self._release()
            self.process = None
        self.process = self.process or self._start()
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(told) + "\n")
            self.process.stdin.flush()

    def lines(self) -> Iterator[dict[str, Any]]:
        """What the process says, until it ends."""
        assert self.process is not None
        assert self.process.stdout is not None
        for line in self.process.stdout:
            yield json.loads(line)

    def work(self, arguments: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Train; yields news, of which the last has "run" or "error", with "died" if it did."""
        self.send(arguments)
        for told in self.lines():
            yield told
            if is_last(told):
                return
        yield self.ending()

    def ending(self) -> dict[str, Any]:
        """How a process that said nothing more ended, with its last words."""
        assert self.process is not None
        assert self._words is not None
        status = self.process.wait()
        self._words.seek(0, os.SEEK_END)
        self._words.seek(max(0, self._words.tell() - _LAST_WORDS))
        lines = self._words.read().decode(errors="replace").strip().splitlines()
        said = f": {lines[-1]}" if lines else ""
        return {"error": f"its process ended with status {status}{said}", "died": status}

    def ask(self, number: int) -> None:
        """Send the process a signal: SIGTERM lets it save and end its task."""
        if self.process is not None:
            self.process.send_signal(number)

    def close(self, kindly: bool = True, grace: float = GRACE) -> None:
        """End the process: after its task, or by SIGTERM, which lets it save, and then by force.

        Args:
            kindly: after its task.
            grace: seconds that it has.
        """
        if self.process is None:
            return
        assert self.process.stdin is not None
        if not kindly:
            self.process.terminate()
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(grace)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._release()

    def _release(self) -> None:
        """Close the files of a process that has ended."""
        assert self.process is not None
        for file in (self.process.stdin, self.process.stdout, self._words):
            if file is not None:
                with suppress(BrokenPipeError):
                    file.close()
