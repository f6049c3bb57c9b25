"""A trained agent: one seed's policy, with the interface that Stable-Baselines3 users know."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete, Space, Tuple
from gymnasium.spaces.utils import flatdim, flatten
from gymnasium.vector.utils import batch_space, iterate
from numpy.typing import NDArray
from torch import Tensor

from rlgrad.actions import Actions
from rlgrad.streams import Purpose, Streams


@runtime_checkable
class Policy(Protocol):
    """What acts: rlgrad's ``Learner`` of one seed, or a peer's policy."""

    shape: tuple[int, int]
    """(D, A): factors of an action, categories of the largest."""
    masked: bool
    """Whether it was trained with the environment's action masks."""

    def actor(self) -> Callable[[Any], Any]:
        """Flattened observations ``[1, n, F]`` float32 -> logits ``[1, n, D, A]``, numpy arrays."""


def _count(space: Space[Any], batch: Any) -> int:
    """Observations in a batch of a space whose members are batched one by one."""
    if isinstance(space, Dict):
        return min(_count(member, batch[key]) for key, member in space.spaces.items())
    if isinstance(space, Tuple):
        return min(_count(*pair) for pair in zip(space.spaces, batch, strict=True))
    return len(batch)


class Agent:
    """A policy that acts.

    Args:
        policy: of one seed.
        observation_space: of one environment, as the environment states it.
        action_space: Discrete, MultiDiscrete or MultiBinary.
        seed: of the noise of sampled actions.
    """

    def __init__(
        self,
        policy: Policy,
        observation_space: Space[Any],
        action_space: Space[Any],
        seed: int = 0,
    ) -> None:
        self.policy = policy
        self.observation_space, self.action_space = observation_space, action_space
        self._actions = Actions(action_space)
        self._act = policy.actor()
        self._streams, self._calls, self._warned = Streams([seed]), 0, False

    def _flat(self, observation: Any) -> tuple[Tensor, bool]:
        """(features ``[n, F]``, whether it was a single observation)."""
        space = self.observation_space
        if isinstance(space, Box):
            x = np.asarray(observation, dtype=np.float32)
            single = x.shape == space.shape
            if not single and x.shape[1:] != space.shape:
                raise ValueError(
                    f"got observations of shape {list(x.shape)}; expected {list(space.shape)}, "
                    f"or that with a batch axis in front"
                )
            return torch.as_tensor(x.reshape(-1, flatdim(space))), single
        single = space.contains(observation)
        if single:
            rows = [observation]
        else:
            count = _count(space, observation)
            rows = list(iterate(batch_space(space, count), observation))
        flat = np.stack([np.asarray(flatten(space, row), dtype=np.float32) for row in rows])
        return torch.as_tensor(flat), single

    def action_probability(self, observation: Any, action_mask: Any = None) -> NDArray[np.float32]:
        """Probabilities of the actions, ``[n, A]``; n = 1 for a single observation.

        For MultiDiscrete and MultiBinary spaces ``[n, D, A]``, factor by factor; categories that a
        factor does not have, or that ``action_mask`` forbids, get 0. Arguments as for ``predict``.
        """
        logits, _ = self._logits(observation, action_mask)
        p: NDArray[np.float32] = logits.softmax(-1).numpy()
        return p[:, 0] if isinstance(self.action_space, Discrete) else p

    def _logits(self, observation: Any, action_mask: Any) -> tuple[Tensor, bool]:
        """(``[n, D, A]``, whether it was a single observation)."""
        x, single = self._flat(observation)
        logits = torch.from_numpy(self._act(x.numpy()[None])[0])
        if action_mask is not None:
            masks = [action_mask] if single else list(action_mask)
            if len(masks) != len(x):
                raise ValueError(f"got {len(masks)} action masks for {len(x)} observations")
            allowed = np.stack([self._actions.allowed(mask) for mask in masks])
            logits = logits.where(torch.from_numpy(allowed), -torch.inf)
        elif self.policy.masked and not self._warned:
            self._warned = True
            warnings.warn(
                "this policy was trained with action masks; without action_mask=info['action_mask']"
                " it may choose actions that the environment forbids",
                stacklevel=3,
            )
        return logits, single

    def predict(
        self,
        observation: Any,
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
        action_mask: Any = None,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...] | None]:
        """Actions for one observation or a batch of them.

        Args:
            observation: of the environment's own space, with or without a batch axis.
            state: passed through; there is no memory.
            episode_start: ignored; there is no memory.
            deterministic: the most probable action instead of a sampled one.
            action_mask: ``info["action_mask"]`` of the observation, or as many as there are
                observations; None: all actions are allowed.

        Returns:
            Actions as the environment takes them, a batch or one of them, and ``state``.
        """
        logits, single = self._logits(observation, action_mask)
        if not deterministic:
            n, D, A = logits.shape
            noise = self._streams.exponential(Purpose.PREDICT, self._calls, n, D * A)[0]
            logits = logits.log_softmax(-1) - noise.log().view(n, D, A)
            self._calls += 1
        action = self._actions.outside(logits.argmax(-1).numpy())
        return (np.asarray(action[0]) if single else action), state
