"""What a task does on its node: a worker process trains, its news and files go to the driver.

The process is that of ``--jobs``, with the same protocol, so a run has the same bits. It is kept
for the next task of the same Ray worker, since starting one costs seconds.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlgrad.cluster.mirror import Files, Outbox
from rlgrad.comparison.process import GRACE, Worker, is_last
from rlgrad.versions import versions

TICK = 1.0  # seconds between looks at the folder, and between lines of status
PEERS = ("stable-baselines3", "sb3")
_kept: dict[str, tuple[str, Worker]] = {}
"""By module, the GPUs that its process sees, and the process."""


class Stop:
    """An actor that tells all tasks when the driver wants them to save and end."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()

    async def ask(self) -> None:
        """Ask all tasks to end."""
        self._asked.set()

    async def wait(self) -> None:
        """Return once that was asked."""
        await self._asked.wait()


def perform(text: str, files: Mapping[str, bytes], stop: Any) -> Iterator[tuple[str, Files]]:
    """Do one task; the function that Ray runs.

    Args:
        text: the task, as JSON: ``module``, ``arguments``, ``versions`` of the driver, ``depth``
            and ``inside`` (see ``Outbox``), ``peer`` and ``gpus``.
        files: that its folder begins with.
        stop: a handle to ``Stop``.

    Yields:
        News as JSON, and files that have changed; the last one as ``Worker.work`` has it, or
        ``refused``, where this node must not train.
    """
    task = json.loads(text)
    host = socket.gethostname()
    if wrong := _differing(task["versions"], task["peer"]):
        yield json.dumps({"refused": f"node {host} has {wrong}"}), {}
        return
    yield json.dumps({"node": host, "pid": os.getpid()}), {}
    root = None
    try:
        root = _root()
        yield from _worked(task, files, stop, root)
    except OSError as error:
        place = root or tempfile.gettempdir()
        told = f"node {host} cannot write to {place}: {error.strerror or error}"
        yield json.dumps({"error": told}), {}
    finally:
        shutil.rmtree(root or "", ignore_errors=True)


def _differing(theirs: Mapping[str, str], peer: bool) -> str:
    """What this node has in other versions than the driver; only a peer's bits depend on SB3."""
    ours = {k: v for k, v in versions().items() if peer or not k.startswith(PEERS)}
    return ", ".join(
        f"{k} {version} where the driver has {theirs.get(k)}"
        for k, version in ours.items()
        if version != theirs.get(k)
    )


def _worked(
    task: Mapping[str, Any], files: Mapping[str, bytes], stop: Any, root: Path
) -> Iterator[tuple[str, Files]]:
    outbox = Outbox(root, task["depth"])
    outbox.put(task["inside"], files)
    arguments = {**task["arguments"], "root": str(root)}
    if files:
        arguments["resume"] = task["inside"]
    said = looked = 0.0
    for news in _listened(_worker(task["module"], task["gpus"]), arguments, stop):
        now, end = time.monotonic(), bool(news) and is_last(news)
        if "status" in news and now - said < TICK:
            news = {}
        elif "status" in news:
            said = now
        moved: Files = {}
        if end or now - looked >= TICK:
            moved, looked = outbox.changed(end), now
        if news or moved:
            yield _without(json.dumps(news), outbox.folder), moved


def _without(text: str, folder: Path | None) -> str:
    """News that name no folder of this node: the driver puts its own in the place of ``{RUN}``."""
    return text if folder is None else text.replace(json.dumps(str(folder))[1:-1], "{RUN}")


def _worker(module: str, gpus: int) -> Worker:
    """A process that runs the module, and sees the GPUs that Ray gave to this task."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "") if gpus else ""
    if module in _kept and _kept[module][0] != seen:
        _kept.pop(module)[1].close()
    fresh = Worker(module, {"CUDA_VISIBLE_DEVICES": seen})
    return _kept.setdefault(module, (seen, fresh))[1]


def _root() -> Path:
    """An empty folder on this node; those that killed tasks left here are removed."""
    start = "rlgrad-ray-"
    for old in Path(tempfile.gettempdir()).glob(f"{start}*-*"):
        number = old.name.removeprefix(start).partition("-")[0]
        if number.isdecimal() and not Path(f"/proc/{number}").exists() and os.path.isdir("/proc"):
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{start}{os.getpid()}-"))


def _listened(worker: Worker, arguments: Mapping[str, Any], stop: Any) -> Iterator[dict[str, Any]]:
    """News of a worker, or nothing each ``TICK``; it is asked to end when ``stop`` is."""
    told: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def listen() -> None:
        for news in worker.work(arguments):
            told.put(news)

    threading.Thread(target=listen, daemon=True).start()
    asked, deadline, ended = stop.wait.remote(), float("inf"), False
    try:
        while True:
            news: dict[str, Any] = {}
            with suppress(queue.Empty):
                news = told.get(timeout=TICK)
            ended = bool(news) and is_last(news)
            yield news
            if ended:
                return
            if deadline == float("inf") and (asked := _still(asked, stop)) is None:
                worker.ask(signal.SIGTERM)
                deadline = time.monotonic() + GRACE
            elif time.monotonic() > deadline:
                worker.ask(signal.SIGKILL)
    finally:
        if not ended:  # nobody listens any more
            worker.close(kindly=False)


def _still(asked: Any, stop: Any) -> Any:
    """What to wait for next; None: the end was asked for."""
    import ray

    if not ray.wait([asked], timeout=0)[0]:
        return asked
    try:
        ray.get(asked)
    except ray.exceptions.RayError:  # its process was killed, and Ray starts it again
        return stop.wait.remote()
    return None
