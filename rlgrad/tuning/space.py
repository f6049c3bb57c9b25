"""What is tuned: the same ranges for every agent, of the settings that it makes use of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from rlgrad.config import Config
from rlgrad.estimators import options
from rlgrad.estimators.build import lookup

_RATES = {
    "learning_rate": (3e-4, 2e-2),
    "critic_learning_rate": (1e-3, 2e-2),
    "estimator_learning_rate": (3e-4, 2e-2),
}


class Range(NamedTuple):
    """Numbers between two bounds, uniform in their logarithm."""

    low: float
    high: float


class Choice(NamedTuple):
    """One of a few values: numbers, or texts such as 64x64."""

    values: tuple[Any, ...]


Space = dict[str, Range | Choice]


def space(config: Config) -> Space:
    """The settings that are tuned, from those that an agent has; they always hold the present ones.

    ``rollout`` is num_envs x num_steps, ``hidden`` the widths of the layers.

    Args:
        config: the agent's settings before tuning.
    """
    episodes = config.signal == "return-to-go"
    trained = lookup(config.estimator).traits.trained
    used = {
        "learning_rate": True,
        "critic_learning_rate": not episodes or config.action_critic,
        "estimator_learning_rate": trained,
    }
    found: Space = {name: Range(*_RATES[name]) for name, is_used in used.items() if is_used}
    found["learning_rate_final"] = Choice((0.05, 0.2, 1.0))
    if episodes:
        found["num_envs"] = Choice((2, 4, 8, 16))
    else:
        found["rollout"] = Choice(("8x32", "8x128", "16x16", "16x64", "32x16"))
    found["gamma"] = Choice((0.98, 0.99, 0.995, 0.999))
    if config.signal == "gae":
        found["gae_lambda"] = Choice((0.9, 0.95, 0.98, 1.0))
    found["entropy_coef"] = Choice((0.0, 0.001, 0.01, 0.03))
    found["hidden"] = Choice(("32x32", "64x64", "128x128"))
    if "width" in options(config.estimator):
        found["width"] = Choice((16, 32, 64, 128))
    now = present(found, config)
    # A rate of 0 has no logarithm: whoever sets it means it, so it is left as it is.
    return {
        name: _holding(dimension, now[name])
        for name, dimension in found.items()
        if isinstance(dimension, Choice) or now[name] > 0
    }


def _holding(dimension: Range | Choice, value: Any) -> Range | Choice:
    """The same, widened by a value that is not in it."""
    if isinstance(dimension, Range):
        return Range(min(dimension.low, value), max(dimension.high, value))
    return Choice(tuple(dict.fromkeys((*dimension.values, value))))


def present(space: Space, config: Config) -> dict[str, Any]:
    """The point of a space where an agent stands."""
    texts = {
        "rollout": f"{config.num_envs}x{config.num_steps}",
        "hidden": "x".join(map(str, config.hidden)),
    }
    now = {name: texts.get(name, getattr(config, name, None)) for name in space}
    if "width" in now and now["width"] is None:
        now["width"] = options(config.estimator)["width"]
    return now


def settings(point: Mapping[str, Any]) -> dict[str, Any]:
    """A point of a space as fields of ``Config``; rates with two digits."""
    found: dict[str, Any] = {}
    for name, value in point.items():
        if name == "rollout":
            found["num_envs"], found["num_steps"] = map(int, value.split("x"))
        elif name == "hidden":
            found["hidden"] = [int(width) for width in value.split("x") if width]
        elif name in _RATES:
            found[name] = float(f"{value:.2g}")
        else:
            found[name] = value
    return found


def describe(space: Space) -> str:
    """A space in one line, as a card tells it."""
    return ", ".join(
        f"{name} {dimension.low:g} to {dimension.high:g} (log-uniform)"
        if isinstance(dimension, Range)
        else f"{name} {' or '.join(str(value) for value in dimension.values)}"
        for name, dimension in space.items()
    )
