"""Peers as data: agents that Stable-Baselines3 trains, with the arguments of their algorithm."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rlgrad.config import Config, as_table, check
from rlgrad.errors import UsageError, shown

PREFIX = "sb3:"
"""Before the Python path of an algorithm without a card."""
TRUSTED = ("stable_baselines3", "sb3_contrib")
"""Packages that a card may name; another one, the user must name."""
SHARED = ("total_timesteps", "num_envs", "max_episode_steps")
"""Fields of ``Config`` that mean the same for a peer."""
_OURS = ("env", "seed", "device", "verbose", "tensorboard_log", "stats_window_size")
_PATH = re.compile(r"([A-Za-z_]\w*\.)+[A-Za-z_]\w*", re.ASCII)


@dataclass(frozen=True)
class Peer:
    """What Stable-Baselines3 trains."""

    algorithm: str
    """Python path of the class."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Of its constructor, as data: ``lin_0.001`` falls linearly to 0, activations are names."""
    policy: str = ""
    """Name of its policy; empty: by the observation space."""
    normalize: dict[str, Any] | None = None
    """Arguments of ``VecNormalize``; None: nothing is normalised."""


def is_trusted(algorithm: str) -> bool:
    """Whether a Python path lies in a package that data may name."""
    return algorithm.partition(".")[0] in TRUSTED


def check_path(path: Any, where: str) -> str:
    """A Python path such as stable_baselines3.PPO.

    Raises:
        UsageError: for anything else.
    """
    if not isinstance(path, str) or not _PATH.fullmatch(path):
        raise UsageError(
            f"{where}: {shown(path)}; expected a Python path, such as stable_baselines3.DQN"
        )
    return path


def check_trusted(algorithm: str, where: str) -> None:
    """Refuse what data must not make us import.

    Raises:
        UsageError: with how the user can name it instead.
    """
    if not is_trusted(check_path(algorithm, f"{where}: algorithm")):
        raise UsageError(
            f"{where}: algorithm = {shown(algorithm)}; a card may name those of "
            f"{' and '.join(TRUSTED)}; another you name yourself: --agent {PREFIX}{algorithm[:200]}"
        )


def check_settings(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Settings of a peer from a card, a run's card or arguments; the algorithm checks its own.

    Args:
        table: fields in ``SHARED``, ``policy``, ``normalize``, and arguments of the algorithm.
        where: file and table, for the message.

    Raises:
        UsageError: naming the key, what came and what was expected.
    """
    for key, value in table.items():
        came = f"{where}: {key} = {shown(value)}"
        if key in _OURS or key.startswith("_"):
            raise UsageError(f"{where}: {key!r} is not for a card to say; rlgrad says it")
        if key == "n_envs":
            raise UsageError(f"{where}: unknown key 'n_envs'; did you mean num_envs?")
        if key == "policy" and not isinstance(value, str):
            raise UsageError(f"{came}; expected the name of a policy, such as MlpPolicy")
        if key == "normalize" and not isinstance(value, (bool, dict)):
            raise UsageError(f"{came}; expected true, false, or a table for VecNormalize")
        if isinstance(value, str) and value.startswith("lin_"):
            slope(value, came)
    return {**table, **check({k: table[k] for k in SHARED if k in table}, where)}


def slope(text: str, came: str) -> float:
    """The number in ``lin_<number>``, from which a value falls linearly to 0.

    Raises:
        UsageError: where it is none.
    """
    try:
        return float(text.removeprefix("lin_"))
    except ValueError:
        raise UsageError(f"{came}; expected lin_ and a number, such as lin_0.001") from None


def divide(algorithm: str, settings: Mapping[str, Any]) -> tuple[Config, Peer]:
    """Merged settings as what they are for: the run, and the algorithm.

    One environment unless they say otherwise, as in Stable-Baselines3 and its zoo.
    """
    config = Config(**{"num_envs": 1, **{k: settings[k] for k in SHARED if k in settings}})
    normalize = settings.get("normalize", False)
    own = (*SHARED, "policy", "normalize")
    return config, Peer(
        algorithm,
        {key: value for key, value in settings.items() if key not in own},
        settings.get("policy", ""),
        None if normalize is False else {} if normalize is True else dict(normalize),
    )


def refuse_flags(agent: str, flags: Mapping[str, Any]) -> None:
    """Refuse hyperparameters of rlgrad's agents, which mean nothing to a peer.

    Raises:
        UsageError: with what a peer takes.
    """
    if foreign := [key for key in flags if key not in SHARED]:
        raise UsageError(
            f"{agent} is trained by Stable-Baselines3 and takes no {', '.join(foreign)}; it takes "
            "total_timesteps (-n), num_envs, max_episode_steps, and its algorithm's own arguments "
            "(--peer-arg learning_rate:0.001)"
        )


def tables(config: Config, peer: Peer | None) -> dict[str, Any]:
    """A run's settings as TOML tables, without those that play no role."""
    table = as_table(config)
    if peer is None:
        return {"config": table}
    own: dict[str, Any] = {"algorithm": peer.algorithm}
    if peer.policy:
        own["policy"] = peer.policy
    if peer.normalize is not None:
        own["normalize"] = peer.normalize
    return {
        "config": {key: table[key] for key in SHARED},
        "peer": {**own, "arguments": peer.arguments},
    }


def read_tables(card: Mapping[str, Any], where: str) -> tuple[Config, Peer | None]:
    """What ``tables`` wrote.

    Raises:
        UsageError: for unknown keys and wrong values; KeyError, TypeError: for missing ones.
    """
    config = Config(**check(card["config"], f"{where} [config]"))
    if "peer" not in card:
        return config, None
    peer, said = card["peer"], f"{where} [peer]"
    normalize, policy = peer.get("normalize"), peer.get("policy", "")
    arguments = dict(peer["arguments"])
    check_settings({**arguments, "policy": policy, "normalize": normalize or {}}, said)
    return config, Peer(check_path(peer["algorithm"], said), arguments, policy, normalize)


def hyperparameters(config: Config, peer: Peer | None) -> dict[str, Any]:
    """A run's settings in one table, for TensorBoard."""
    nested = tables(config, peer)
    flat = {**nested["config"], **nested.get("peer", {})}
    return {**flat, **flat.pop("arguments", {})}
