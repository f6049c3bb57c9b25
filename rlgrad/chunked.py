"""Gymnasium environments as one vector environment, stepped here or in worker processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from gymnasium.error import ClosedEnvironmentError
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from rlgrad.chunk import Chunk
from rlgrad.cores import cores
from rlgrad.hanging import patience
from rlgrad.rows import Lane, LaneError, Rows, layout, name_of
from rlgrad.workers import Workers


class Advance(NamedTuple):
    """One step of all lanes, in arrays of its own."""

    observation: NDArray[Any]
    """``[L, *shape]``, of the next episode where one has ended."""
    final: NDArray[Any] | None
    """``[L, *shape]``, last observations where episodes have ended; None: nowhere."""
    reward: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]


class ChunkedVectorEnv(VectorEnv[Any, Any, Any]):
    """Environments in mode SAME_STEP, with the same bits as Gymnasium's ``SyncVectorEnv``.

    They are stepped in this process, with less between two of them than ``SyncVectorEnv`` has, or
    in a few worker processes: Gymnasium's ``AsyncVectorEnv`` has a process for every environment,
    here each worker steps a chunk of them, so that a step costs one message per worker. Infos hold
    the last observations alone: ``final_obs`` is one array for all lanes, ``_final_obs`` says where
    it counts.

    Args:
        lanes: make the environments; their observations are of one Box space.
        workers: processes; 0: this one; None: one for each core that this process may use.
        start: how workers start, see ``Workers``.

    Raises:
        LaneError: here or later, where an environment raises, gives what is no observation of its
            space, no number or no flag, or does not answer; or where a worker dies.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "autoreset_mode": AutoresetMode.SAME_STEP,
        "render_modes": [],
    }

    def __init__(
        self, lanes: Sequence[Lane], workers: int | None = None, start: str | None = None
    ) -> None:
        patience()  # refused before anything is made
        first = lanes[0]()
        name = name_of(first)
        self.num_envs = L = len(lanes)
        self.single_observation_space = first.observation_space
        self.single_action_space = first.action_space
        self.observation_space = batch_space(self.single_observation_space, L)
        self.action_space = batch_space(self.single_action_space, L)
        parts = layout(L, self.observation_space, self.action_space)
        count = min(cores() if workers is None else workers, L)
        self.crew: Chunk | Workers
        """What steps them."""
        if count:
            first.close()
            self.crew = Workers(name, lanes, parts, count, start)
        else:
            arrays: list[Any] = [np.zeros(shape, dtype) for shape, dtype in parts]
            self.crew = Chunk(name, [lambda: first, *lanes[1:]], Rows(*arrays), watched=True)
        self.rows = self.crew.rows

    def cpu_seconds(self) -> float:
        """That worker processes have spent; this process's own are not in it."""
        return self.crew.cpu_seconds() if isinstance(self.crew, Workers) else 0.0

    def _play(self, name: str, *arguments: Any) -> Any:
        """Have the crew do something; where an environment fails, all are closed."""
        if self.closed:
            raise ClosedEnvironmentError(f"{name} after close")
        try:
            return getattr(self.crew, name)(*arguments)
        except LaneError:
            self.close(terminate=True)
            raise

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Start new episodes in all lanes.

        Args:
            seed: an int: lane i gets seed + i; or one seed or None per lane.
            options: none are known.
        """
        L = self.num_envs
        seeds = [seed] * L if seed is None else seed
        seeds = [seeds + i for i in range(L)] if isinstance(seeds, int) else list(seeds)
        if len(seeds) != L:
            raise ValueError(f"got {len(seeds)} seeds for {L} lanes")
        self._play("reset", seeds)
        return self.rows.observation.copy(), {}

    def advance(self, actions: Any) -> Advance:
        """One step in every lane.

        Args:
            actions: ``[L, *shape]``, as the environments take them.
        """
        rows = self.rows
        rows.action[:] = actions
        self._play("step")
        terminated, truncated = rows.terminated.copy(), rows.truncated.copy()
        final = rows.final.copy() if (terminated | truncated).any() else None
        return Advance(rows.observation.copy(), final, rows.reward.copy(), terminated, truncated)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One step in every lane; see ``gymnasium.vector.VectorEnv.step``."""
        x, final, reward, terminated, truncated = self.advance(actions)
        mask = terminated | truncated
        info = {} if final is None else {"final_obs": final, "_final_obs": mask}
        return x, reward, terminated, truncated, info

    def call(self, name: str, *args: Any) -> tuple[Any, ...]:
        """Call a method of every environment; see ``gymnasium.vector.SyncVectorEnv.call``."""
        return tuple(self._play("call", name, *args))

    def set_attr(self, name: str, values: Sequence[Any]) -> None:
        """Set an attribute of every environment, to one value each."""
        self._play("set_attr", name, list(values))

    def close_extras(self, terminate: bool = False, **kwargs: Any) -> None:
        """Release the environments; ``terminate`` workers at once."""
        if isinstance(self.crew, Workers):
            self.crew.close(terminate)
        else:
            self.crew.close()

    def __del__(self) -> None:
        """Workers do not outlive the object."""
        if not getattr(self, "closed", True) and hasattr(self, "crew"):
            self.close(terminate=True)
