"""Training in several processes at once, here or in a cluster, and what a person sees of it."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol, runtime_checkable

from rlgrad.comparison.plan import Task
from rlgrad.comparison.process import Worker
from rlgrad.display import Board, Status

TRAINS = "rlgrad.comparison.worker"
Told = queue.Queue[tuple[Task | None, dict[str, Any]]]
"""News of tasks; None for the task: a thread has no more."""


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


@runtime_checkable
class Crew(Protocol):
    """Who does tasks: processes here, or a cluster."""

    @property
    def jobs(self) -> int:
        """Tasks at a time, as far as is known."""

    def begin(
        self, tasks: Sequence[Task], arguments: Callable[[Task], Mapping[str, Any]], told: Told
    ) -> int:
        """Begin tasks in their order; returns how many threads will tell that they have ended."""

    def end(self, kindly: bool) -> None:
        """Let go of all processes: after their tasks, or now, once they have saved."""


class Local:
    """Processes on this machine.

    Args:
        jobs: at a time.
        module: what they run.
    """

    def __init__(self, jobs: int, module: str = TRAINS) -> None:
        self.jobs, self._module = jobs, module
        self._waiting: queue.SimpleQueue[Task] = queue.SimpleQueue()
        self._workers: list[Worker] = []

    def begin(
        self, tasks: Sequence[Task], arguments: Callable[[Task], Mapping[str, Any]], told: Told
    ) -> int:
        """See ``Crew``."""
        for task in tasks:
            self._waiting.put(task)
        self._workers = [Worker(self._module) for _ in range(min(self.jobs, len(tasks)))]

        def serve(worker: Worker) -> None:
            while not self._waiting.empty():
                try:
                    task = self._waiting.get_nowait()
                except queue.Empty:
                    break
                for news in worker.work(arguments(task)):
                    told.put((task, news))
            told.put((None, {}))

        for worker in self._workers:
            threading.Thread(target=serve, args=(worker,), daemon=True).start()
        return len(self._workers)

    def end(self, kindly: bool) -> None:
        """See ``Crew``."""
        while not kindly and not self._waiting.empty():
            self._waiting.get()
        for worker in self._workers:
            worker.close(kindly)


def train_all(
    tasks: Sequence[Task],
    arguments: Callable[[Task], Mapping[str, Any]],
    crew: Crew,
    board: Board,
) -> tuple[list[str], list[str]]:
    """Train tasks.

    Args:
        tasks: in the order in which they are begun.
        arguments: of a task, as its worker's module expects them.
        crew: who trains.
        board: shows where each stands.

    Returns:
        Paths of the runs, and what went wrong in words.

    Raises:
        KeyboardInterrupt: after the workers have saved what they had.
    """
    told: Told = queue.Queue()
    runs: list[str] = []
    wrong: list[str] = []
    kindly = False
    try:
        with _termination(), board:
            _listen(told, crew.begin(tasks, arguments, told), board, runs, wrong)
        kindly = True
    finally:
        crew.end(kindly)
    return runs, wrong


def _listen(told: Told, threads: int, board: Board, runs: list[str], wrong: list[str]) -> None:
    """Take in news until all threads have no more."""
    while threads:
        try:
            task, news = told.get(timeout=0.5)  # a blocking get would hold back Ctrl-C on Windows
        except queue.Empty:
            continue
        if "waiting" in news:
            board.waiting(news["waiting"])
        elif task is None:
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
