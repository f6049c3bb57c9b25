"""Atari games behind ale_py's C++ vector environment, with the usual preprocessing.

A step is four frames, of which the last two are joined by their maximum; observations are the last
four steps in grey, 84 x 84. An episode starts with up to 30 idle frames, and with the fire button
where a game waits for it. Rewards are the game's score; learning may cut them (``reward_clip``).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from rlgrad.errors import UsageError, shown
from rlgrad.streams import Purpose, derive

FRAMES, SKIP = 108_000, 4
STEPS = FRAMES // SKIP
"""Env steps after which an episode is truncated: half an hour of play."""
_MORE = (
    "episodic_life",
    "full_action_space",
    "noop_max",
    "repeat_action_probability",
    "use_fire_reset",
)
"""Arguments of ale_py's class that may be chosen; others are what makes a task the usual one."""


def is_atari(env_id: str) -> bool:
    """Whether an id is one of the games that ale_py registers for this preprocessing."""
    name = env_id.rpartition(":")[2]
    return name.startswith("ALE/") and name.endswith("-v5")


def _vector(
    spec: EnvSpec, num_envs: int, kwargs: Mapping[str, Any], max_episode_steps: int, mode: Any
) -> VectorEnv[Any, Any, Any]:
    """The C++ environment of a game.

    Raises:
        UsageError: for arguments that it does not take.
    """
    from ale_py.vector_env import AtariVectorEnv

    unknown = [key for key in kwargs if key not in _MORE]
    if unknown:
        raise UsageError(
            f"{spec.id} got env_kwargs {shown(unknown[0])}; expected {', '.join(_MORE)}"
        )
    chosen = {key: spec.kwargs[key] for key in _MORE if key in spec.kwargs} | dict(kwargs)
    try:
        return AtariVectorEnv(
            spec.kwargs["game"],
            num_envs,
            frameskip=SKIP,
            max_num_frames_per_episode=(max_episode_steps or STEPS) * SKIP,
            reward_clipping=False,
            autoreset_mode=mode,
            **chosen,
        )
    except TypeError as error:
        raise UsageError(f"{spec.id} cannot be made with {shown(chosen)}: {error}") from None


class AtariLanes(VectorEnv[Any, Any, Any]):
    """Lanes of a game in mode SAME_STEP, stepped by threads of ale_py.

    A lane's first episode starts from the lane's own seed, later ones go on from there.

    Args:
        spec: Gymnasium's entry of the game.
        num_envs: lanes.
        kwargs: ``episodic_life`` (a lost life ends an episode), ``full_action_space``,
            ``noop_max``, ``repeat_action_probability``, ``use_fire_reset``.
        max_episode_steps: 0: 27,000, which are 108,000 frames.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "autoreset_mode": AutoresetMode.SAME_STEP,
        "render_modes": [],
    }

    def __init__(
        self,
        spec: EnvSpec,
        num_envs: int,
        kwargs: Mapping[str, Any] | None = None,
        max_episode_steps: int = 0,
    ) -> None:
        mode = AutoresetMode.SAME_STEP
        self.games: Any = _vector(spec, num_envs, kwargs or {}, max_episode_steps, mode)
        self.num_envs, self.spec = num_envs, spec
        self.single_observation_space = self.games.single_observation_space
        self.single_action_space = self.games.single_action_space
        self.observation_space = self.games.observation_space
        self.action_space = self.games.action_space

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Start new episodes in all lanes.

        Args:
            seed: an int: lane i gets seed + i; or one per lane; None goes on.
            options: none are known.
        """
        if seed is not None and not isinstance(seed, int):
            seed = _short(seed)
        observation, _ = self.games.reset(seed=seed)
        return observation, {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One step in every lane; see ``gymnasium.vector.VectorEnv.step``."""
        x, reward, terminated, truncated, info = self.games.step(np.asarray(actions))
        done = terminated | truncated
        ended = {"final_obs": info["final_obs"], "_final_obs": done} if done.any() else {}
        return x, reward.astype(np.float64), terminated, truncated, ended

    def close_extras(self, **kwargs: Any) -> None:
        """Let go of the games, which ale_py wants before Python ends."""
        self.games = None


class AtariEnv(gymnasium.Env[Any, Any]):
    """One game, alone: what agents see and do in ``AtariLanes``.

    Args:
        spec: as for ``AtariLanes``.
        kwargs: the same, and ``render_mode``: rgb_array shows the newest frame as agents see it.
        max_episode_steps: as for ``AtariLanes``.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": ["rgb_array"],
        "render_fps": 60 // SKIP,
    }

    def __init__(
        self, spec: EnvSpec, kwargs: Mapping[str, Any], max_episode_steps: int = 0
    ) -> None:
        kwargs = dict(kwargs)
        self.render_mode = kwargs.pop("render_mode", None)
        self.game: Any = _vector(spec, 1, kwargs, max_episode_steps, AutoresetMode.NEXT_STEP)
        self.spec = copy.deepcopy(spec)
        self.spec.max_episode_steps = max_episode_steps or STEPS
        self.observation_space = self.game.single_observation_space
        self.action_space = self.game.single_action_space
        self._seen: NDArray[np.uint8] | None = None

    def get_action_meanings(self) -> list[str]:
        """Names of the actions."""
        return [action.name for action in self.game.ale.get_action_set()]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Start a new episode."""
        observation, _ = self.game.reset(seed=None if seed is None else _short([seed]))
        self._seen = observation[0]
        return self._seen, {}

    def step(self, action: Any) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Act for four frames."""
        x, reward, terminated, truncated, _ = self.game.step(np.array([action], dtype=np.int64))
        self._seen = x[0]
        return self._seen, float(reward[0]), bool(terminated[0]), bool(truncated[0]), {}

    def close(self) -> None:
        """Let go of the game."""
        self.game = None

    def render(self) -> Any:
        """The newest frame in grey, four times as large: ``[336, 336, 3]``."""
        if self.render_mode is None or self._seen is None:
            return None
        return np.repeat(np.kron(self._seen[-1], np.ones((4, 4), np.uint8))[..., None], 3, axis=2)


def _short(seeds: Sequence[int]) -> NDArray[np.int64]:
    """Seeds as the C++ class takes them: 31 bits."""
    return np.array([derive(each, Purpose.RESET, 0) & 0x7FFFFFFF for each in seeds])
