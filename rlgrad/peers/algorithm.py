"""From a peer's card to Stable-Baselines3's own objects, built as its users build them."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Dict
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from rlgrad.config import Config
from rlgrad.errors import UsageError, nearest, raised, shown
from rlgrad.finding import import_module
from rlgrad.make import make_bare
from rlgrad.peer_cards import Peer, slope

# What a card may name where Stable-Baselines3 takes a class.
_NAMES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "activation_fn": (torch.nn, ("ELU", "GELU", "LeakyReLU", "ReLU", "SiLU", "Tanh")),
    "optimizer_class": (torch.optim, ("Adam", "AdamW", "RMSprop", "SGD")),
}


@dataclass(frozen=True)
class Subject:
    """What is trained on what; a run and a resolved card both say it."""

    agent: str
    env_id: str
    env_kwargs: dict[str, Any]
    config: Config
    peer: Peer

    def make(self) -> gymnasium.Env[Any, Any]:
        """One environment, neither rendered nor wrapped."""
        return make_bare(self.env_id, self.env_kwargs, self.config.max_episode_steps)


@contextmanager
def untouched() -> Iterator[None]:
    """Leave the process's random streams as they were: Stable-Baselines3 draws from all three."""
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002
        torch.set_rng_state(kept[2])


def algorithm_class(path: str) -> Any:
    """The class at a Python path.

    Raises:
        UsageError: where it cannot be imported or is no algorithm of Stable-Baselines3.
    """
    module, _, name = path.rpartition(".")
    hint = "; it comes with pip install rlgrad[contrib]" if module.startswith("sb3_contrib") else ""
    found = import_module(module, hint)
    cls = getattr(found, name, None)
    if isinstance(cls, type) and issubclass(cls, BaseAlgorithm) and not inspect.isabstract(cls):
        return cls
    there = [
        each
        for each, value in vars(found).items()
        if isinstance(value, type) and issubclass(value, BaseAlgorithm)
    ]
    raise UsageError(
        f"{path} is no algorithm of Stable-Baselines3; in {module} {nearest(name, there)}"
    )


def _falling(start: float) -> Callable[[float], float]:
    """``start`` times what is left of training, as the zoo's ``lin_`` means it."""

    def schedule(progress_remaining: float | int) -> float:
        return progress_remaining * start

    return schedule


def _policy_arguments(table: dict[str, Any]) -> dict[str, Any]:
    """``policy_kwargs`` with classes for their names."""
    arguments = dict(table)
    for key, (module, names) in _NAMES.items():
        if key in arguments:
            if arguments[key] not in names:
                came = f"policy_kwargs: {key} = {shown(arguments[key])}"
                raise UsageError(f"{came}; expected one of {', '.join(names)}")
            arguments[key] = getattr(module, arguments[key])
    return arguments


def constructor_arguments(subject: Subject, cls: Any) -> dict[str, Any]:
    """A peer's arguments as the constructor takes them.

    Raises:
        UsageError: for one that it does not have.
    """
    parameters = inspect.signature(cls).parameters
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    arguments: dict[str, Any] = {}
    for key, value in subject.peer.arguments.items():
        if key not in parameters and not takes_any:
            near = nearest(key, parameters)
            raise UsageError(f"{subject.agent}: {cls.__name__} takes no {key!r}; {near}")
        if isinstance(value, str) and value.startswith("lin_"):
            value = _falling(slope(value, key))
        arguments[key] = tuple(value) if isinstance(value, list) else value
    if isinstance(arguments.get("policy_kwargs"), dict):
        arguments["policy_kwargs"] = _policy_arguments(arguments["policy_kwargs"])
    return arguments


def make_envs(subject: Subject, count: int, seed: int | None) -> VecEnv:
    """Stable-Baselines3's own vector environment, monitored; normalised if the card says so."""
    env = make_vec_env(subject.make, count, seed=seed)
    if subject.peer.normalize is None:
        return env
    # The discount of the algorithm, as in the zoo.
    discount = {k: v for k, v in subject.peer.arguments.items() if k == "gamma"}
    return VecNormalize(env, **{**discount, **subject.peer.normalize})


def policy_name(subject: Subject, env: VecEnv) -> str:
    """The card's policy, or the one for the observation space."""
    mlp = "MultiInputPolicy" if isinstance(env.observation_space, Dict) else "MlpPolicy"
    return subject.peer.policy or mlp


@contextmanager
def refusing(subject: Subject) -> Iterator[None]:
    """What Stable-Baselines3 refuses while its objects are made is the user's to mend."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        text = raised(error, 500)
        raise UsageError(f"{subject.agent} cannot be made for {subject.env_id}: {text}") from None


def build(subject: Subject, seed: int, device: torch.device) -> BaseAlgorithm:
    """The algorithm, ready to learn.

    Raises:
        UsageError: where Stable-Baselines3 refuses the card or the environment.
    """
    with refusing(subject):
        cls = algorithm_class(subject.peer.algorithm)
        arguments = constructor_arguments(subject, cls)
        env = make_envs(subject, subject.config.num_envs, seed)
        name = policy_name(subject, env)
        algorithm: BaseAlgorithm = cls(name, env, seed=seed, device=device, verbose=0, **arguments)
        return algorithm


def empty(subject: Subject) -> tuple[BaseAlgorithm, VecEnv]:
    """An algorithm without an environment, as ``BaseAlgorithm.load`` makes it, and its spaces.

    The second is one environment, which holds spaces and the statistics of ``VecNormalize``.

    Raises:
        UsageError: where Stable-Baselines3 refuses the card or the environment.
    """
    with refusing(subject):
        cls = algorithm_class(subject.peer.algorithm)
        arguments = constructor_arguments(subject, cls)
        env = cls._wrap_env(make_envs(subject, 1, None), 0, False)
        name = policy_name(subject, env)
        algorithm = cls(name, None, device="cpu", _init_setup_model=False, **arguments)
        algorithm.observation_space, algorithm.action_space = (
            env.observation_space,
            env.action_space,
        )
        algorithm.n_envs = 1
        algorithm._setup_model()
        return algorithm, env
