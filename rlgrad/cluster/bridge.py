"""The process between rlgrad and Ray: ``python -m rlgrad.cluster.bridge``.

It is one of its own so that what Ray prints, what it does to signals, and how it ends where a
cluster is lost, stay away from the user's process. Lines of JSON in: ``address`` and ``cpus``, then
a list of tasks. Lines out: ``joined`` or ``error``, then news of tasks, with their number in
``task``. Where its standard input ends, or on SIGTERM, tasks are asked to save; what they send is
kept, and the process ends.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from dataclasses import asdict
from types import FrameType
from typing import Any

from rlgrad.cluster.attempts import Attempt
from rlgrad.cluster.joining import capacities, join
from rlgrad.cluster.node import Stop, perform
from rlgrad.comparison.process import GRACE, Wire, is_last
from rlgrad.errors import UsageError

LOOK = 2.0  # seconds between looks at who waits
_end = threading.Event()  # the end was asked for


class Bridge:
    """Tasks of one command, in the cluster that this process has joined.

    Args:
        jobs: see ``Attempt``.
        wire: to the command.
        most: tasks at a time; 0: as many as there is room for.
        patience: seconds that a task waits for a node that could ever take it.
    """

    def __init__(self, jobs: list[dict[str, Any]], wire: Wire, most: int, patience: float) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        actor = ray.remote(num_cpus=0, max_restarts=-1, max_concurrency=100_000)(Stop)
        self._stop = actor.options(scheduling_strategy=here).remote()
        self._function = ray.remote(num_returns="streaming", max_retries=0)(perform)
        self._ray, self._wire, self._patience = ray, wire, patience
        self._queue = [Attempt(number, job) for number, job in enumerate(jobs)]
        self._most = most or len(jobs)
        self._flying: dict[Any, Attempt] = {}
        self._waiting, self._looked, self._unfit_since = 0, 0.0, float("inf")
        self._deadline, self._fatal = float("inf"), ""

    def run(self) -> None:
        """Do all tasks, or see to it that those that run save and end.

        Raises:
            UsageError: where no task can be done: a node has other versions, a full disk here.
        """
        while self._queue or self._flying:
            if _end.is_set():
                self._let_end()
                if time.monotonic() > self._deadline:
                    break
            while self._queue and len(self._flying) < self._most:
                self._submit(self._queue.pop(0))
            if not self._flying:
                continue
            ready, _ = self._ray.wait(list(self._flying), num_returns=1, timeout=0.5)
            for stream in ready:
                self._advance(stream)
            self._look()
        if self._fatal:
            raise UsageError(self._fatal)

    def _submit(self, attempt: Attempt) -> None:
        text, files = attempt.sent()
        task = self._function.options(num_cpus=1, num_gpus=attempt.job["gpus"])
        self._flying[task.remote(text, files, self._stop)] = attempt

    def _let_end(self) -> None:
        """Ask tasks to save and end; those that wait need not begin."""
        self._queue.clear()
        if self._deadline == float("inf"):
            self._deadline = time.monotonic() + GRACE + 10.0
            self._stop.ask.remote()
        for stream, attempt in list(self._flying.items()):
            if not attempt.began:
                self._ray.cancel(stream)
                self._finish(stream)

    def _advance(self, stream: Any) -> None:
        """Take what a task sent next; or see that it, its worker or its node is gone."""
        attempt = self._flying.pop(stream)
        self._flying[stream] = attempt  # the others are looked at first next time
        errors = self._ray.exceptions
        try:
            news = attempt.take(*self._ray.get(next(stream)))
        except UsageError as error:  # of this machine
            news = {"fatal": str(error)}
        except StopIteration:
            news = {"lost": "its task ended early"}
        except errors.RayTaskError as error:
            said = " ".join(str(error.cause).split())[:500]
            news = {"error": f"node {attempt.node or 'unknown'}: {said}"}
        except errors.RayError as error:
            news = {"lost": str(error).partition(".")[0].partition("\n")[0]}
        if "refused" in news:
            news = {"fatal": f"{news['refused']}; install the same on all nodes"}
        if "fatal" in news:
            self._fatal = news["fatal"]
            self._finish(stream)
            _end.set()
            return
        if "died" in news:  # the process that trains, alone
            news = {"lost": news["error"]}
        if "lost" in news:
            self._lost(stream, news["lost"])
        elif news and "node" not in news:
            self._tell(attempt, news)
            if is_last(news):
                self._finish(stream)

    def _lost(self, stream: Any, why: str) -> None:
        attempt = self._flying.pop(stream)
        if _end.is_set():
            attempt.inbox.close()
            return
        news = attempt.lost(why)
        self._tell(attempt, news)
        if "say" in news:
            self._queue.insert(0, attempt)
        else:
            attempt.inbox.close()

    def _finish(self, stream: Any) -> None:
        self._flying.pop(stream).inbox.close()

    def _tell(self, attempt: Attempt, news: dict[str, Any]) -> None:
        if news:
            self._wire.send(task=attempt.number, **news)

    def _look(self) -> None:
        """Now and then: how many wait, and whether a node could ever take them."""
        now = time.monotonic()
        if now - self._looked < LOOK:
            return
        self._looked = now
        waits = {stream: each for stream, each in self._flying.items() if not each.began}
        if len(waits) + len(self._queue) != self._waiting:
            self._waiting = len(waits) + len(self._queue)
            self._wire.send(waiting=self._waiting)
        nodes = capacities() if waits else []
        unfit = {
            stream: each
            for stream, each in waits.items()
            if not any(
                all(node.get(kind, 0) >= count for kind, count in each.resources.items())
                for node in nodes
            )
        }
        self._unfit_since = min(self._unfit_since, now) if unfit else float("inf")
        if now - self._unfit_since >= self._patience:
            for stream, attempt in unfit.items():
                self._ray.cancel(stream)
                wants = " and ".join(f"{n:g} {kind}" for kind, n in attempt.resources.items())
                self._tell(attempt, {
                    "error": f"no node of the cluster has {wants}, and none came in "
                    f"{self._patience:.0f} s; add one, or leave --ray out",
                })  # fmt: skip
                self._finish(stream)


def _watch() -> None:
    """Note when whoever started this process has nothing more to say, or is gone."""
    sys.stdin.read()
    _end.set()


def main() -> None:
    """Join, do the tasks, leave."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the caller's to handle
    wire = Wire(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)
    asked = json.loads(sys.stdin.readline())
    try:
        joined = join(asked["address"], asked["cpus"])
    except UsageError as error:
        wire.send(error=str(error))
        return

    def end(number: int, frame: FrameType | None) -> None:
        _end.set()

    signal.signal(signal.SIGTERM, end)  # in the place of Ray's own
    wire.send(joined=asdict(joined))
    import ray

    try:
        if line := sys.stdin.readline():
            threading.Thread(target=_watch, daemon=True).start()
            Bridge(json.loads(line), wire, asked["most"], asked["patience"]).run()
    except UsageError as error:
        wire.send(error=str(error))
    except ray.exceptions.RayError as error:
        wire.send(error=f"the Ray cluster is lost: {' '.join(str(error).split())[:300]}")
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
