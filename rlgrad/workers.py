"""Worker processes that step environments, many in each, and cannot be lost quietly."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from itertools import pairwise
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import Any, NoReturn

import numpy as np

from rlgrad.chunk import Chunk
from rlgrad.errors import UsageError
from rlgrad.hanging import Wait, no_answer, patience
from rlgrad.rows import IDLE, UNMADE, UNSEEDED, Lane, LaneError, Rows, moment, standing

FORKS = sys.platform == "linux"  # elsewhere it is missing, or unsafe beside system libraries
MAKING = 10  # times as long is waited for a process that starts and makes an environment
Layout = Sequence[tuple[tuple[int, ...], Any]]


class _Shared:
    """Rows in memory that the workers see.

    Args:
        context: of multiprocessing.
        layout: see ``rlgrad.rows.layout``.
    """

    def __init__(self, context: Any, layout: Layout) -> None:
        self._raw = [
            (context.RawArray("b", int(np.prod(shape)) * dtype.itemsize), shape, dtype)
            for shape, dtype in layout
        ]

    def rows(self) -> Rows:
        """Views of all of it."""
        arrays: list[Any] = [np.frombuffer(raw, d).reshape(shape) for raw, shape, d in self._raw]
        return Rows(*arrays)


def _die_with_parent() -> None:
    """End this process when its parent does, even in the middle of a step."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _work(
    name: str,
    lanes: Sequence[Lane],
    pipe: Connection,
    others: list[Connection],
    shared: _Shared,
    part: slice,
    spent: Any,
    number: int,
) -> None:
    """A worker's life: step its environments whenever told, until the pipe closes."""
    # Ctrl-C, a terminal that closes and a scheduler reach the whole group: the parent answers.
    for each in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, each):
            signal.signal(getattr(signal, each), signal.SIG_IGN)
    for end in others:  # inherited ends would keep a dead parent's pipes open
        end.close()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    chunk: Chunk | None = None
    try:
        chunk = Chunk(name, lanes, shared.rows().part(part), part.start)
        pipe.send(None)
        while True:
            what, *arguments = pipe.recv()
            answer = getattr(chunk, what)(*arguments)
            spent[number] = time.process_time()
            pipe.send(answer)
    except (EOFError, BrokenPipeError):
        pass  # the parent has closed, or is gone
    except Exception as error:
        if not isinstance(error, UsageError):
            error = UsageError("".join(traceback.format_exception(error)))
        error.__cause__ = None  # what the environment raised need not survive a pipe
        with contextlib.suppress(OSError):
            pipe.send(error)
    finally:
        if chunk is not None:
            chunk.close()


class Workers:
    """Processes that step a chunk of the environments each; takes what a ``Chunk`` takes.

    Args:
        name: of the environment, for messages.
        lanes: make the environments.
        layout: of their rows.
        count: processes, at most one for each environment.
        start: how they start, fork or spawn; None: fork on Linux, which is at once, else spawn,
            where ``lanes`` must be picklable and a script needs ``if __name__ == "__main__"``.

    Raises:
        LaneError: here or later, where an environment fails, or a worker dies or does not answer.
    """

    def __init__(
        self, name: str, lanes: Sequence[Lane], layout: Layout, count: int, start: str | None
    ) -> None:
        context: Any = multiprocessing.get_context(start or ("fork" if FORKS else "spawn"))
        self.name, self._patience, shared = name, patience(), _Shared(context, layout)
        self.rows = shared.rows()
        self.rows.time[:], self.rows.seed[:] = UNMADE, UNSEEDED
        edges = [len(lanes) * i // count for i in range(count + 1)]
        self._parts = [slice(a, b) for a, b in pairwise(edges)]
        self._spent = context.RawArray("d", count)
        self._pipes: list[Connection] = []
        self.processes: list[Any] = []
        for i, part in enumerate(self._parts):
            here, there = context.Pipe()
            others = [*self._pipes, here] if context.get_start_method() == "fork" else []
            arguments = name, lanes[part], there, others, shared, part, self._spent, i
            process = context.Process(target=_work, args=arguments, daemon=True)
            process.start()
            there.close()
            self._pipes.append(here)
            self.processes.append(process)
        self._wait(MAKING * self._patience)

    def reset(self, seeds: Sequence[int | None]) -> None:
        """Start new episodes in all lanes, each from its seed; None: from where it stands."""
        self._tell([("reset", seeds[part]) for part in self._parts])

    def step(self) -> None:
        """Act in all lanes; one whose episode ends begins the next."""
        self._tell([("step",)] * len(self._parts))

    def cpu_seconds(self) -> float:
        """That all workers together have spent up to their last answers."""
        return sum(self._spent)

    def call(self, name: str, *args: Any) -> list[Any]:
        """Call a method of every environment."""
        answers = self._tell([("call", name, *args)] * len(self._parts))
        return [each for answer in answers for each in answer]

    def set_attr(self, name: str, values: Sequence[Any]) -> None:
        """Set an attribute of every environment, to one value each."""
        self._tell([("set_attr", name, values[part]) for part in self._parts])

    def _tell(self, messages: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send every worker its message, and wait for all answers."""
        for i, (pipe, message) in enumerate(zip(self._pipes, messages, strict=True)):
            try:
                pipe.send(message)
            except OSError:
                self._lose(i, self._death(i))
        return self._wait(self._patience)

    def _wait(self, seconds: float) -> list[Any]:
        answers = []
        for i, pipe in enumerate(self._pipes):
            try:
                self._wait_for(i, seconds)
                answer = pipe.recv()
            except (EOFError, OSError):
                self._lose(i, self._death(i))
            if isinstance(answer, UsageError):
                self.close(terminate=True)
                if isinstance(answer, LaneError) and answer.details:
                    answer.add_note(f"In worker {i}:\n{answer.details}")
                raise answer
            answers.append(answer)
        return answers

    def _wait_for(self, i: int, seconds: float) -> None:
        """Wait until a worker has answered, as long as it moves."""
        wait, rows = Wait(seconds), self.rows.part(self._parts[i])
        while not self._pipes[i].poll(wait.tick):
            if wait.over(standing(rows)):
                self._lose(i, no_answer(seconds))

    def _death(self, i: int) -> str:
        """How a worker ended that no longer answers."""
        self.processes[i].join(5)
        code = self.processes[i].exitcode
        if code is None:
            how = "which is gone"
        elif code < 0:
            how = f"killed by {signal.Signals(-code).name}"
        else:
            how = f"which ended with status {code}"
        return f"lost worker {i} (process {self.processes[i].pid}), {how},"

    def _lose(self, i: int, what: str) -> NoReturn:
        """Stop all workers and say where one of them was lost."""
        part, first = self._parts[i], self._parts[i].start
        at = int(self.rows.at[first])
        lanes = range(part.start, part.stop) if at == IDLE else range(first + at, first + at + 1)
        when = "" if at == IDLE else moment(self.rows, first + at)
        self.close(terminate=True)
        raise LaneError(self.name, what, lanes, when)

    def close(self, terminate: bool = False) -> None:
        """End the workers: at once, or when they have closed their environments."""
        for pipe in self._pipes:
            pipe.close()
        for process in self.processes:
            if terminate:
                process.kill()
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()
