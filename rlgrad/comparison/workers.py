"""Training in several processes at once, and what a person sees of it.

A worker that dies takes down its own block only: the block is named with what the worker last said,
and a fresh worker goes on with the next.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import IO, Any

from rlgrad.comparison.plan import Task
from rlgrad.display import Board, Status

GRACE = 30.0  # seconds that an interrupted worker has for its last checkpoint
_LAST_WORDS = 2_000  # bytes of a dead worker's standard error that are looked at


TRAINS = "rlgrad.comparison.worker"


class Worker:
    """A process that trains one task after another.

    Args:
        module: what it runs.
    """

    def __init__(self, module: str = TRAINS) -> None:
        self.process: subprocess.Popen[str] | None = None
        self._module = module
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
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # so that the terminal's Ctrl-C reaches the caller alone
        )

    def work(self, arguments: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Train; yields news, of which the last has "run" or "error"."""
        if self.process is not None and self.process.poll() is not None:
            self._release()
            self.process = None
        self.process = self.process or self._start()
        pipe, news = self.process.stdin, self.process.stdout
        assert pipe is not None
        assert news is not None
        try:
            pipe.write(json.dumps(arguments) + "\n")
            pipe.flush()
            for line in news:
                told = json.loads(line)
                yield told
                if not told.keys() & {"status", "say"}:
                    return
        except BrokenPipeError:
            pass
        yield {"error": f"its process ended with status {self.process.wait()}{self._said()}"}

    def _said(self) -> str:
        assert self._words is not None
        self._words.seek(0, os.SEEK_END)
        self._words.seek(max(0, self._words.tell() - _LAST_WORDS))
        lines = self._words.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1]}" if lines else ""

    def close(self, kindly: bool = True) -> None:
        """End the process: after its task, or by SIGTERM, which lets it save, and then by force."""
        if self.process is None:
            return
        assert self.process.stdin is not None
        if not kindly:
            self.process.terminate()
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(GRACE)
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


@contextmanager
def _termination() -> Iterator[None]:
    """SIGINT and SIGTERM as KeyboardInterrupt, so that workers save and are not orphaned."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    # SIGINT too: a shell that starts a job in the background has it ignored.
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train_all(
    tasks: Sequence[Task],
    arguments: Mapping[str, Any],
    jobs: int,
    board: Board,
    module: str = TRAINS,
) -> tuple[list[str], list[str]]:
    """Train tasks, at most ``jobs`` at a time.

    Args:
        tasks: in the order in which they are begun.
        arguments: what all tasks share, as the module expects it.
        jobs: processes.
        board: shows where each stands.
        module: what the processes run.

    Returns:
        Paths of the runs, and what went wrong in words.

    Raises:
        KeyboardInterrupt: after the workers have saved what they had.
    """
    waiting: queue.SimpleQueue[Task] = queue.SimpleQueue()
    for task in tasks:
        waiting.put(task)
    told: queue.Queue[tuple[Task | None, dict[str, Any]]] = queue.Queue()
    workers = [Worker(module) for _ in range(min(jobs, len(tasks)))]

    def serve(worker: Worker) -> None:
        while not waiting.empty():
            try:
                task = waiting.get_nowait()
            except queue.Empty:
                break
            known = {"env": task.env, "agent": task.agent, "seeds": task.seeds}
            for news in worker.work({**arguments, **known}):
                told.put((task, news))
        told.put((None, {}))

    threads = [threading.Thread(target=serve, args=(w,), daemon=True) for w in workers]
    runs: list[str] = []
    wrong: list[str] = []
    kindly = False
    try:
        with _termination(), board:
            for thread in threads:
                thread.start()
            _listen(told, len(threads), board, runs, wrong)
        kindly = True
    finally:
        while not kindly and not waiting.empty():
            waiting.get()
        for worker in workers:
            worker.close(kindly)
    return runs, wrong


def _listen(
    told: queue.Queue[tuple[Task | None, dict[str, Any]]],
    threads: int,
    board: Board,
    runs: list[str],
    wrong: list[str],
) -> None:
    """Take in news until all threads have no more."""
    while threads:
        try:
            task, news = told.get(timeout=0.5)  # a blocking get would hold back Ctrl-C on Windows
        except queue.Empty:
            continue
        if task is None:
            threads -= 1
        elif "status" in news:
            board.update(task.label, Status(*news["status"]))
        elif "say" in news:
            board.say(news["say"])
        elif "error" in news:
            board.done(task.label, "failed")
            wrong.append(f"{task.label}: {news['error']}")
        elif news["signal"]:
            board.done(task.label, "interrupted")
            wrong.append(f"{task.label}: stopped by signal {news['signal']}; its run is kept")
        else:
            board.done(task.label)
            runs.append(news["run"])
