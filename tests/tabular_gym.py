"""Small tabular MDPs as Gymnasium environments that state their table, and agents on any table."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Discrete
from tabular import MDPS, Tabular
from tabular_agents import agent

from rlgrad.config import Config
from rlgrad.learner import Learner


class TableGym(gymnasium.Env):
    """A tabular MDP of one factor, whose end is one more state; the state is observed."""

    def __init__(self, name: str, render_mode: str | None = None) -> None:
        mdp = MDPS[name]
        X, A, K = mdp.probability.shape
        tables = [each.tolist() for each in (mdp.probability, mdp.successor, mdp.reward)]
        self.P: dict[int, Any] = {
            x: {
                a: [
                    (*(each[x][a][k] for each in tables), tables[1][x][a][k] == X) for k in range(K)
                ]
                for a in range(A)
            }
            for x in range(X)
        }
        self.P[X] = {a: [(1.0, X, 0.0, True)] for a in range(A)}
        self.initial_state_distrib = np.append(mdp.start.numpy(), 0.0)
        self.observation_space, self.action_space = Discrete(X + 1), Discrete(A)
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        chances = self.initial_state_distrib
        self.s = int(self.np_random.choice(len(chances), p=chances))
        return self.s, {}

    def step(self, action):
        rows = self.P[self.s][int(action)]
        chances = np.array([row[0] for row in rows])
        _, self.s, reward, end = rows[self.np_random.choice(len(rows), p=chances / chances.sum())]
        return self.s, reward, end, False, {}


for name, mdp in MDPS.items():
    if len(mdp.sizes) == 1 and mdp.mask is None and f"tests/{name}-v0" not in gymnasium.registry:
        limit = mdp.longest if mdp.limited else None
        gymnasium.register(
            f"tests/{name}-v0", TableGym, kwargs={"name": name}, max_episode_steps=limit
        )


def with_number_observed(name: str) -> Tabular:
    """The MDP that an agent meets in ``tests/NAME-v0``: states as one-hot numbers, the end too."""
    mdp = MDPS[name]
    return mdp._replace(features=torch.eye(len(mdp.start) + 1, dtype=torch.float64))


def some_agent(config: Config, features: int, actions: int, lanes: int) -> tuple[Learner, Learner]:
    """(the same arbitrary agent ``lanes`` times, once)."""
    like: Any = SimpleNamespace(features=torch.empty(1, features), sizes=(actions,), mask=None)
    many, once = agent(config, like, lanes), agent(config, like, 1)
    once.load_state_dict({key: x[:1] for key, x in many.state_dict().items()})
    return many, once
