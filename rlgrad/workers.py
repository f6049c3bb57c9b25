"""Gymnasium environments in worker processes, many in each, with the bits of one process."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from itertools import pairwise
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from rlgrad.errors import UsageError

PATIENCE = 600.0  # seconds until a worker that does not answer counts as hanging
FORKS = sys.platform == "linux"  # elsewhere it is missing, or unsafe beside system libraries
Lane = Callable[[], gymnasium.Env[Any, Any]]


class WorkerError(UsageError):
    """A worker process raised, died or hangs; the message names it and its environments."""


class _Shared:
    """Arrays of all lanes in memory that the workers see.

    Args:
        lanes: one row each.
        observation: batched space of observations.
        action: batched space of actions.
    """

    def __init__(self, context: Any, lanes: int, observation: Any, action: Any) -> None:
        def zeros(shape: Sequence[int], dtype: Any) -> tuple[Any, Sequence[int], Any]:
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            return context.RawArray("b", size), tuple(shape), np.dtype(dtype)

        self._raw = {
            "observation": zeros(observation.shape, observation.dtype),
            "final": zeros(observation.shape, observation.dtype),
            "action": zeros(action.shape, action.dtype),
            "reward": zeros((lanes,), np.float64),
            "terminated": zeros((lanes,), np.bool_),
            "truncated": zeros((lanes,), np.bool_),
        }

    def arrays(self, lanes: slice = slice(None)) -> dict[str, NDArray[Any]]:
        """Views of some lanes' rows, by name."""
        return {
            name: np.frombuffer(raw, dtype).reshape(shape)[lanes]
            for name, (raw, shape, dtype) in self._raw.items()
        }


def _die_with_parent() -> None:
    """End this process when its parent does, even in the middle of a step."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _work(
    lanes: Sequence[Lane], pipe: Connection, others: list[Connection], shared: _Shared, rows: slice
) -> None:
    """A worker's life: step its environments whenever told, until the pipe closes."""
    # Ctrl-C, a terminal that closes and a scheduler reach the whole group: the parent answers.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    for each in others:  # inherited ends would keep a dead parent's pipes open
        each.close()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    env: SyncVectorEnv | None = None
    try:
        env = SyncVectorEnv(lanes, copy=False, autoreset_mode=AutoresetMode.SAME_STEP)
        views = shared.arrays(rows)
        pipe.send(None)
        while True:
            message, answer = pipe.recv(), None
            if message is None:
                _step(env, views)
            elif isinstance(message, tuple):
                answer = getattr(env, message[0])(*message[1:])
            else:
                views["observation"][:] = env.reset(seed=message)[0]
            pipe.send(answer)
    except (EOFError, BrokenPipeError):
        pass  # the parent has closed, or is gone
    except Exception as error:
        text, place = " ".join(str(error).split())[:500], traceback.extract_tb(error.__traceback__)
        where = f"{place[-1].filename}, line {place[-1].lineno}"
        with contextlib.suppress(OSError):
            pipe.send(f"{type(error).__name__}: {text} ({where})")
    finally:
        if env is not None:
            env.close()


def _step(env: SyncVectorEnv, views: dict[str, NDArray[Any]]) -> None:
    """One step of a worker's environments, from and to shared memory."""
    observation, reward, terminated, truncated, info = env.step(views["action"])
    views["observation"][:], views["reward"][:] = observation, reward
    views["terminated"][:], views["truncated"][:] = terminated, truncated
    for lane in np.flatnonzero(terminated | truncated):
        views["final"][lane] = info["final_obs"][lane]


class ChunkedVectorEnv(VectorEnv[Any, Any, Any]):
    """Environments in a few worker processes; the same bits as ``SyncVectorEnv`` in SAME_STEP.

    Gymnasium's ``AsyncVectorEnv`` has a process for every environment; here each worker steps a
    chunk of them, so that a step costs one message per worker. Infos hold the last observations
    alone: ``final_obs`` is one array for all lanes, ``_final_obs`` says where it counts.

    Args:
        lanes: functions that make the environments; their observations are Box spaces.
        workers: processes; None: one for each core that this process may use.
        start: how they start, fork or spawn; None: fork on Linux, which is at once, else spawn,
            where ``lanes`` must be picklable and a script needs ``if __name__ == "__main__"``.

    Raises:
        WorkerError: here or later, where a worker raises, dies, or does not answer for 10 minutes.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "autoreset_mode": AutoresetMode.SAME_STEP,
        "render_modes": [],
    }

    def __init__(
        self, lanes: Sequence[Lane], workers: int | None = None, start: str | None = None
    ) -> None:
        first = lanes[0]()
        self.num_envs = len(lanes)
        self.single_observation_space = first.observation_space
        self.single_action_space = first.action_space
        first.close()
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        context: Any = multiprocessing.get_context(start or ("fork" if FORKS else "spawn"))
        shared = _Shared(context, self.num_envs, self.observation_space, self.action_space)
        self._arrays = shared.arrays()
        count = min(workers or cores(), self.num_envs)
        edges = [self.num_envs * i // count for i in range(count + 1)]
        self._rows = [slice(a, b) for a, b in pairwise(edges)]
        self._pipes: list[Connection] = []
        self.processes: list[Any] = []
        for rows in self._rows:
            here, there = context.Pipe()
            others = [*self._pipes, here] if context.get_start_method() == "fork" else []
            arguments = lanes[rows], there, others, shared, rows
            process = context.Process(target=_work, args=arguments, daemon=True)
            process.start()
            there.close()
            self._pipes.append(here)
            self.processes.append(process)
        self._wait()

    def _tell(self, messages: Sequence[Any]) -> list[Any]:
        """Send every worker its message, and wait for all answers.

        None: a step; a list: a reset with these seeds; a tuple: a method and its arguments.
        """
        for i, (pipe, message) in enumerate(zip(self._pipes, messages, strict=True)):
            try:
                pipe.send(message)
            except OSError:
                self._fail(i, self._death(i))
        return self._wait()

    def _wait(self) -> list[Any]:
        answers = []
        for i, pipe in enumerate(self._pipes):
            try:
                answer = pipe.recv() if pipe.poll(PATIENCE) else "no answer for 10 minutes"
            except (EOFError, OSError):
                answer = self._death(i)
            if isinstance(answer, str):
                self._fail(i, answer)
            answers.append(answer)
        return answers

    def _death(self, i: int) -> str:
        """How a worker ended that no longer answers."""
        self.processes[i].join(5)
        code = self.processes[i].exitcode
        if code is not None and code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return "its process is gone" if code is None else f"its process ended with status {code}"

    def _fail(self, i: int, error: str) -> None:
        """Stop all workers and say which of them failed."""
        rows, pid = self._rows[i], self.processes[i].pid
        self.close(terminate=True)
        raise WorkerError(
            f"worker {i} (process {pid}) with environments {rows.start} to {rows.stop - 1}: {error}"
        )

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Start new episodes in all lanes.

        Args:
            seed: an int: lane i gets seed + i; or one seed or None per lane.
            options: none are known.
        """
        lanes = self.num_envs
        seeds = [seed] * lanes if seed is None else seed
        seeds = [seeds + i for i in range(lanes)] if isinstance(seeds, int) else list(seeds)
        if len(seeds) != lanes:
            raise ValueError(f"got {len(seeds)} seeds for {lanes} lanes")
        self._tell([seeds[rows] for rows in self._rows])
        return self._arrays["observation"].copy(), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One step in every lane; see ``gymnasium.vector.VectorEnv.step``."""
        mine = self._arrays
        mine["action"][:] = actions
        self._tell([None] * len(self._pipes))
        terminated, truncated = mine["terminated"].copy(), mine["truncated"].copy()
        done = terminated | truncated
        info = {"final_obs": mine["final"].copy(), "_final_obs": done} if done.any() else {}
        return mine["observation"].copy(), mine["reward"].copy(), terminated, truncated, info

    def call(self, name: str, *args: Any) -> tuple[Any, ...]:
        """Call a method of every environment; see ``gymnasium.vector.SyncVectorEnv.call``."""
        answers = self._tell([("call", name, *args)] * len(self._pipes))
        return tuple(each for answer in answers for each in answer)

    def set_attr(self, name: str, values: Sequence[Any]) -> None:
        """Set an attribute of every environment, to one value each."""
        self._tell([("set_attr", name, list(values[rows])) for rows in self._rows])

    def close_extras(self, terminate: bool = False, **kwargs: Any) -> None:
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

    def __del__(self) -> None:
        """Workers do not outlive the object."""
        if not getattr(self, "closed", True) and hasattr(self, "_pipes"):
            self.close(terminate=True)


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
