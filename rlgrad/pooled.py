"""EnvPool's environments behind Gymnasium's interface."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from rlgrad.errors import UsageError
from rlgrad.streams import Purpose, derive


class PooledVectorEnv(VectorEnv[Any, Any, Any]):
    """EnvPool's version of an environment, with one thread, seeds that count and batched spaces.

    Its episodes differ from Gymnasium's. EnvPool takes seeds only when it is made, so a reset with
    a seed makes it anew.

    Args:
        env_id: EnvPool's id; Gymnasium's, without a namespace.
        num_envs: lanes.
        max_episode_steps: 0: the environment's own limit.

    Raises:
        UsageError: where EnvPool is not installed, or has no such environment, or one without Box
            observations.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "autoreset_mode": AutoresetMode.NEXT_STEP,
        "render_modes": [],
    }

    def __init__(self, env_id: str, num_envs: int, max_episode_steps: int = 0) -> None:
        try:
            import envpool
        except ImportError:
            raise UsageError(
                "--vec envpool needs EnvPool; run: pip install envpool (or use --vec auto)"
            ) from None
        name = env_id.rpartition("/")[2]
        if name not in envpool.list_all_envs():
            raise UsageError(f"EnvPool has no environment {name!r}; use --vec auto")
        limit = {"max_episode_steps": max_episode_steps} if max_episode_steps else {}
        self._options = {"env_type": "gymnasium", "num_envs": num_envs, "num_threads": 1, **limit}
        self._make, self._name, self.num_envs = envpool.make, name, num_envs
        self._pool = self._build({})
        self.max_episode_steps = self._pool.spec.config.max_episode_steps
        self.single_observation_space = self._pool.single_observation_space
        self.single_action_space = self._pool.single_action_space
        if not isinstance(self.single_observation_space, Box):
            raise UsageError(
                f"EnvPool's {name} observes {self.single_observation_space}; --vec envpool takes "
                "Box observations only, use --vec auto"
            )
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def _build(self, seeds: dict[str, Any]) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of bounds that lose digits
            pool = self._make(self._name, **self._options, **seeds)
            _ = pool.observation_space, pool.action_space  # made, and kept, on first use
        return pool

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Start new episodes in all lanes.

        Args:
            seed: an int: lane i gets seed + i; or one per lane; None goes on.
            options: none are known.
        """
        if seed is not None:
            lanes = range(self.num_envs)
            seeds = [seed + i for i in lanes] if isinstance(seed, int) else list(seed)
            short = [derive(each, Purpose.RESET, 0) & 0x7FFFFFF for each in seeds]
            self._pool.close()
            self._pool = self._build({"seed": short})
        return self._pool.reset()[0], {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One step in every lane; see ``gymnasium.vector.VectorEnv.step``."""
        *rest, _ = self._pool.step(np.asarray(actions, dtype=self.single_action_space.dtype))
        return rest[0], rest[1], rest[2], rest[3], {}

    def close_extras(self, **kwargs: Any) -> None:
        """Release EnvPool."""
        self._pool.close()
