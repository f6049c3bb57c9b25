"""What actions are called, where the environment or its documentation says so."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium.spaces import Discrete

from rlgrad.actions import Actions

# As Gymnasium's documentation has them, by the id without namespace and version.
_KNOWN = {
    "Acrobot": ("torque -1", "no torque", "torque +1"),
    "Blackjack": ("stick", "hit"),
    "CartPole": ("left", "right"),
    "CliffWalking": ("up", "right", "down", "left"),
    "FrozenLake": ("left", "down", "right", "up"),
    "FrozenLake8x8": ("left", "down", "right", "up"),
    "LunarLander": ("nothing", "left engine", "main engine", "right engine"),
    "MountainCar": ("left", "nothing", "right"),
    "Taxi": ("south", "north", "east", "west", "pick up", "drop off"),
}


def action_names(env: gymnasium.Env[Any, Any]) -> list[list[str]]:
    """Names of the categories of each factor of an action.

    Args:
        env: with Discrete, MultiDiscrete or MultiBinary actions. Its ``get_action_meanings`` is
            asked, as Atari's has it; then Gymnasium's documentation; else numbers, as the space
            counts them.
    """
    space = env.action_space
    sizes = Actions(space).sizes
    if isinstance(space, Discrete):
        known = _meanings(env) or _KNOWN.get(_family(env), ())
        if len(known) == space.n:
            return [list(known)]
        return [[str(space.start + i) for i in range(int(space.n))]]
    start = getattr(space, "start", None)
    first = [0] * len(sizes) if start is None else start.reshape(-1).tolist()
    return [[str(a + i) for i in range(size)] for a, size in zip(first, sizes, strict=True)]


def _family(env: gymnasium.Env[Any, Any]) -> str:
    """The environment's name without namespace and version; empty: it was made by hand."""
    return "" if env.spec is None or env.spec.namespace else env.spec.name


def _meanings(env: gymnasium.Env[Any, Any]) -> tuple[str, ...]:
    ask = getattr(env.unwrapped, "get_action_meanings", None)
    return tuple(str(name).lower() for name in ask()) if callable(ask) else ()
