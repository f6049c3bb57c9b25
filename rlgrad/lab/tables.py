"""Environments whose transitions are a finite table: Gymnasium's ``env.unwrapped.P``, and probes.

Letters: X states, A actions, K outcomes of a step.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit
from torch import Tensor

from rlgrad.card_files import EnvCard
from rlgrad.config import Config
from rlgrad.make import is_simulated, make_one, make_training, time_limit
from rlgrad.simulators.base import TorchVectorEnv
from rlgrad.simulators.probes import Probe

_HARMLESS = (TimeLimit, OrderEnforcing, PassiveEnvChecker)
_LONGEST = 1000  # steps of a probe's episode


class Table(NamedTuple):
    """All there is to know of a finite environment; numbers in float64."""

    start: Tensor
    """``[X]`` probabilities of the first state."""
    probability: Tensor
    """``[X, A, K]`` of each outcome."""
    successor: Tensor
    """``[X, A, K]`` int64."""
    reward: Tensor
    """``[X, A, K]``."""
    terminated: Tensor
    """``[X, A, K]`` bool."""
    features: Tensor
    """``[X, F]`` observed."""
    limit: int | None
    """Env steps after which episodes are truncated; None: never."""


def tabulate(card: EnvCard, config: Config) -> Table | str:
    """The table of an environment, or why there is none.

    Args:
        card: of the environment.
        config: for its ``max_episode_steps``.
    """
    if is_simulated(card):
        simulator: Any = make_training(card, 1, config.max_episode_steps)
        return _probe(simulator) if isinstance(simulator, Probe) else "its states are no table"
    if config.normalize_rewards:
        return "its rewards are clipped, which no table says"
    if card.masked:
        return "its action masks are in no table"
    env = make_one(card.id, card.kwargs, config.max_episode_steps)
    reason = _obstacle(env)
    limit = time_limit(card.id, config.max_episode_steps)
    table = reason or _read(env.unwrapped, limit)
    env.close()
    return table


def _obstacle(env: gymnasium.Env[Any, Any]) -> str | None:
    """Why an environment's P, if it has one, does not say all of what an agent meets."""
    base: Any = env.unwrapped
    if not (hasattr(base, "P") and hasattr(base, "initial_state_distrib")):
        return "it has no table of transitions (env.unwrapped.P)"
    states, actions = len(base.initial_state_distrib), len(base.P[0])
    sizes = (env.observation_space, states), (env.action_space, actions)
    for space, size in sizes:
        if not isinstance(space, Discrete) or (space.n, space.start) != (size, 0):
            return f"its table numbers {states} states and {actions} actions, agents meet {space}"
    while env is not base:
        if not isinstance(env, _HARMLESS):
            return f"wrapper {type(env).__name__} may change what its table says"
        env = env.env
    if getattr(base, "fickle_passenger", False):
        return "a fickle passenger is not in its table"
    return None


def _read(base: Any, limit: int | None) -> Table:
    """The table of ``base.P[state][action]``, lists of (probability, next, reward, terminated)."""
    X, A = len(base.P), len(base.P[0])
    outcomes = [[list(base.P[x][a]) for a in range(A)] for x in range(X)]
    K = max(len(each) for row in outcomes for each in row)
    # Shorter lists are filled up with what they end in, at probability zero.
    filled = [[each + [(0.0, *each[-1][1:])] * (K - len(each)) for each in row] for row in outcomes]
    numbers = torch.from_numpy(np.array(filled, dtype=np.float64))
    probability, successor, reward, terminated = numbers.unbind(-1)
    start = torch.tensor(np.asarray(base.initial_state_distrib), dtype=torch.float64)
    features = torch.eye(X, dtype=torch.float64)
    return Table(start, probability, successor.long(), reward, terminated > 0, features, limit)


def _probe(env: Probe) -> Table | str:
    """The table of a probe, over (sign, time)."""
    limit = env.max_episode_steps
    last = env.length if limit is None else min(env.length, limit)
    if last > _LONGEST:
        return f"its episodes are longer than {_LONGEST:,} steps"
    sign, time = torch.tensor([-1.0, 1.0]), torch.arange(last + 1.0)
    state = torch.cartesian_prod(sign, time)
    number = torch.arange(len(state))
    steps = [env.dynamics(state, torch.full_like(number, action)) for action in range(2)]
    _, reward, terminated = (
        torch.stack(each, 1).unsqueeze(-1) for each in zip(*steps, strict=True)
    )
    onward = number + (state[:, 1] < last)
    return Table(
        (state[:, 1] == 0).double() / 2,
        torch.ones(reward.shape, dtype=torch.float64),
        onward.view(-1, 1, 1).expand(reward.shape),
        reward.double(),
        terminated,
        torch.as_tensor(env.observe(env.xp, env._native(state))).double(),
        limit,
    )


class TableEnv(TorchVectorEnv):
    """A table as a simulator on the CPU. State: the number of the state.

    Outcomes are drawn from a generator of its own, beside the state: a restored state says what may
    come, and not what will.

    Args:
        table: the transitions.
        lanes: how many.
        seed: of the outcomes.
    """

    noise_per_reset: ClassVar[int] = 1

    def __init__(self, table: Table, lanes: int, seed: int) -> None:
        self.table, self._random = table, np.random.default_rng(seed)
        self._bounds = table.probability.cumsum(-1)[..., :-1].numpy()
        self._outcomes = [
            x.numpy() for x in (table.successor, table.reward.float(), table.terminated)
        ]
        self._features = table.features.float().numpy()
        super().__init__(lanes, max_episode_steps=table.limit)

    def spaces(self) -> tuple[Box, Discrete]:
        """Features and actions."""
        shape = self._features.shape[1:]
        return Box(-np.inf, np.inf, shape, np.float32), Discrete(self.table.reward.shape[1])

    def initial(self, noise: Tensor) -> Tensor:
        """First states by inversion."""
        bounds = self.table.start.cumsum(0)[:-1]
        return torch.searchsorted(bounds, noise.double(), right=True).to(noise)

    def observe(self, xp: Any, state: Any) -> Any:
        """The features of the state."""
        return self._features[state[:, 0].astype(np.int64)]

    def transition(self, xp: Any, state: Any, action: Any) -> tuple[Any, Any, Any]:
        """A random outcome in every lane."""
        x = state[:, 0].astype(np.int64)
        number = self._random.random((len(state), 1))
        outcome = (number >= self._bounds[x, action]).sum(-1)
        successor, reward, terminated = (each[x, action, outcome] for each in self._outcomes)
        return successor.astype(state.dtype)[:, None], reward, terminated
