"""Episodes of one policy, state by state, with what it thinks of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete
from gymnasium.spaces.utils import flatten
from numpy.typing import NDArray

from rlgrad.actions import Actions
from rlgrad.agent import Agent
from rlgrad.errors import UsageError, raised
from rlgrad.evaluation import LONGEST
from rlgrad.make import make_bare, make_one
from rlgrad.masking import KEY
from rlgrad.streams import Purpose, derive
from rlgrad.watching.values import Value

Picture = NDArray[np.uint8]
PIP = "pip install 'rlgrad[watch]'"


@dataclass(frozen=True)
class Moment:
    """A state that a policy met, and what it made of it."""

    picture: Picture
    """``[H, W, 3]`` as the environment draws it."""
    episode: int
    """Counted from 0."""
    step: int
    """Env steps of the episode so far."""
    total: float
    """Undiscounted return so far."""
    probabilities: NDArray[np.float32]
    """``[D, A]``; categories that do not exist have 0."""
    chosen: tuple[int, ...]
    """Category of each factor, counted from 0; empty once the episode is over."""
    values: tuple[float, ...] = field(repr=False)
    """Of the states of the episode so far, this one last; empty where there is no critic."""
    ended: str = ""
    """How the episode ended: terminated, truncated, given up; empty while it goes on."""


def drawn_environment(
    env_id: str, env_kwargs: Mapping[str, Any], max_episode_steps: int
) -> gymnasium.Env[Any, Any]:
    """One environment that draws itself into arrays.

    Raises:
        UsageError: for one that cannot, with the reason.
    """
    plain = make_one(env_id, env_kwargs, max_episode_steps)
    modes = [str(mode) for mode in plain.metadata.get("render_modes", [])]
    plain.close()
    if "rgb_array" not in modes:
        there = ", ".join(modes) or "none"
        raise UsageError(
            f"{env_id} draws no pictures: its render modes are {there}, and watching needs "
            "rgb_array; `rlgrad evaluate` plays it without"
        )
    env = make_bare(env_id, {**env_kwargs, "render_mode": "rgb_array"}, max_episode_steps)
    try:
        env.reset(seed=0)
        picture(env)
    except UsageError:
        env.close()
        raise
    return env


def picture(env: gymnasium.Env[Any, Any]) -> Picture:
    """What the environment draws, ``[H, W, 3]``.

    Raises:
        UsageError: where it raises, or draws anything else.
    """
    name = env.spec.id if env.spec else str(env)
    try:
        drawn = env.render()
    except gymnasium.error.DependencyNotInstalled as error:
        raise UsageError(f"{name} cannot be drawn: {error}; {PIP}") from None
    except Exception as error:
        raise UsageError(f"{name} cannot be drawn: {raised(error)}") from None
    if not isinstance(drawn, np.ndarray) or drawn.ndim != 3 or drawn.shape[2] not in (3, 4):
        came = f"shape {list(drawn.shape)}" if isinstance(drawn, np.ndarray) else type(drawn)
        raise UsageError(f"{name} drew {came}; expected an array [height, width, 3] of uint8")
    if np.issubdtype(drawn.dtype, np.floating):  # of 0 to 1, as MinAtar draws
        drawn = (255 * drawn).round()
    return np.array(drawn[..., :3], dtype=np.uint8)  # a copy: some draw into the same memory


def play(
    env: gymnasium.Env[Any, Any],
    agent: Agent,
    value: Value | None,
    episodes: int,
    env_seed: int = 0,
    deterministic: bool = False,
) -> Iterator[Moment]:
    """Every state of fresh episodes, the last one of each included.

    Args:
        env: that draws itself.
        agent: that acts.
        value: of flattened observations; None: there is no critic.
        episodes: how many.
        env_seed: from which their seeds are derived, as those of an evaluation.
        deterministic: the most probable action instead of a sampled one.
    """
    longest = None if env.spec and env.spec.max_episode_steps else LONGEST
    for episode in range(episodes):
        observation, info = env.reset(seed=derive(env_seed, Purpose.EVALUATE, 1, episode))
        total, step, ended = 0.0, 0, ""
        values: tuple[float, ...] = ()
        while True:
            if value is not None:
                x = np.asarray(flatten(env.observation_space, observation), dtype=np.float32)
                values = (*values, value(x))
            mask = _mask(agent, info, bool(ended))
            action, chosen = _choice(agent, observation, deterministic, mask)
            p = agent.action_probability(observation, mask)[0]
            yield Moment(
                picture(env), episode, step, total, p.reshape(-1, p.shape[-1]),
                () if ended else chosen, values, ended,
            )  # fmt: skip
            if ended:
                break
            observation, reward, terminated, truncated, info = env.step(action)
            total, step = total + float(reward), step + 1
            over = "terminated" if terminated else "truncated" if truncated else ""
            ended = over or ("given up" if step == longest else "")


def _mask(agent: Agent, info: Mapping[str, Any], ended: bool) -> Any:
    """The environment's mask for a policy that was trained with masks; all once it has ended."""
    if not agent.policy.masked:
        return None
    if ended:
        return np.ones(sum(Actions(agent.action_space).sizes))
    if info.get(KEY) is None:
        raise UsageError(f"the environment gave an info without {KEY!r}, and the run trained on it")
    return info[KEY]


def _choice(
    agent: Agent, observation: Any, deterministic: bool, mask: Any
) -> tuple[Any, tuple[int, ...]]:
    """(an action as the environment takes it, the category of each of its factors from 0)."""
    action, _ = agent.predict(observation, deterministic=deterministic, action_mask=mask)
    space = agent.action_space
    chosen = np.asarray(action) - np.asarray(getattr(space, "start", 0))
    inside = tuple(int(i) for i in chosen.reshape(-1))
    return (int(action) if isinstance(space, Discrete) else action), inside
