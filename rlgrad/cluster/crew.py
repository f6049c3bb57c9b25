"""Tasks of ``rlgrad compare`` and ``rlgrad tune`` that a Ray cluster does."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rlgrad.cluster.address import need_ray
from rlgrad.comparison.plan import Task
from rlgrad.comparison.process import GRACE, Worker, is_last
from rlgrad.comparison.workers import Told
from rlgrad.cores import cores
from rlgrad.errors import UsageError
from rlgrad.versions import versions

JOINING = 300.0  # seconds until a cluster is joined or started
PATIENCE = 60.0  # seconds that a task waits for a node that could ever take it


class Place(NamedTuple):
    """Where what a task leaves is kept, and what it needs."""

    folder: str | None
    """That its files are in; None: a new one in ``parent``."""
    parent: str
    depth: int
    """Of the folder below the store."""
    peer: bool = False
    """Whether it must begin anew where it is lost."""
    gpus: int = 0


class Cluster:
    """A ``Crew``: tasks of a Ray cluster, which a process of its own talks to.

    Args:
        address: see ``address.ADDRESS``.
        jobs: tasks at a time; 0: as many as there is room for.
        module: that a node's worker processes run.
        place: of a task.

    Raises:
        UsageError: where no cluster can be joined or started.
    """

    def __init__(
        self, address: str, jobs: int, module: str, place: Callable[[Task], Place]
    ) -> None:
        need_ray(address)
        self._address, self._most, self._module, self._place = address, jobs, module, place
        self._bridge = Worker("rlgrad.cluster.bridge")
        try:
            told = self._joined()
        except BaseException:
            self._bridge.close(kindly=False)
            raise
        self.cpus, self.gpus, self.told = int(told["cpus"]), int(told["gpus"]), str(told["told"])

    @property
    def jobs(self) -> int:
        """Tasks at a time, as far as is known."""
        return max(1, min(self._most or self.cpus, self.cpus or 1))

    def _joined(self) -> dict[str, Any]:
        """What the bridge tells once it has joined."""
        asked = {"address": self._address, "cpus": self._most or cores(), "most": self._most}
        self._bridge.send({**asked, "patience": PATIENCE})
        self._lines = self._bridge.lines()
        first: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

        def read() -> None:
            first.put(next(self._lines, {}) or self._bridge.ending())

        threading.Thread(target=read, daemon=True).start()
        try:
            told = first.get(timeout=JOINING)
        except queue.Empty:
            told = {"error": f"it did not answer in {JOINING:.0f} s"}
        if "error" in told:
            raise UsageError(f"--ray {self._address}: {told['error']}")
        joined: dict[str, Any] = told["joined"]
        return joined

    def begin(
        self, tasks: Sequence[Task], arguments: Callable[[Task], Mapping[str, Any]], told: Told
    ) -> int:
        """See ``Crew``."""
        jobs = [
            {
                "label": task.label,
                "module": self._module,
                "arguments": dict(arguments(task)),
                "versions": versions(),
                **self._place(task)._asdict(),
            }
            for task in tasks
        ]
        self._bridge.send(jobs)
        threading.Thread(target=self._listen, args=(tasks, told), daemon=True).start()
        return 1

    def _listen(self, tasks: Sequence[Task], told: Told) -> None:
        """Pass news on; where the bridge ends early, tell so of each task that has not ended."""
        open_tasks = dict(enumerate(tasks))
        why = ""
        for news in self._lines:
            number = news.pop("task", None)
            if number is None:
                why = news.get("error", why)
                if "waiting" in news:
                    told.put((None, news))
                continue
            told.put((open_tasks[number], news))
            if is_last(news):
                del open_tasks[number]
        if open_tasks and not why:
            how = self._bridge.ending()["error"].removeprefix("its process ")
            why = f"what talks to Ray {how}; rlgrad resume goes on from what came before"
        for i, task in enumerate(open_tasks.values()):
            told.put((task, {"error": why if i == 0 else "not done, for the same reason"}))
        told.put((None, {}))

    def end(self, kindly: bool) -> None:
        """See ``Crew``."""
        self._bridge.close(kindly, 2 * GRACE)
