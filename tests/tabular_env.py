"""Tabular MDPs as a simulator, whose noise of a whole episode is part of its state."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from tabular import Tabular, Trajectories
from torch import Tensor
from torch.nn.functional import pad

from rlgrad.masking import MaskedBox
from rlgrad.simulators.base import TorchVectorEnv


class TabularEnv(TorchVectorEnv):
    """A tabular MDP. State: (x, time, one number in (0, 1) for the outcome of each step)."""

    def __init__(self, mdp: Tabular, lanes: int) -> None:
        self.mdp, self.noise_per_reset = mdp, 1 + mdp.longest
        self.tables = [each.numpy() for each in (mdp.successor, mdp.reward.float())]
        self.bounds = mdp.probability.cumsum(-1)[..., :-1].numpy()
        self.features = mdp.features.float().numpy()
        if mdp.mask is not None:
            self.features = np.hstack([self.features, mdp.mask.flatten(1).float().numpy()])
        super().__init__(lanes, max_episode_steps=mdp.longest if mdp.limited else None)

    def spaces(self) -> tuple[Box, Any]:
        sizes = self.mdp.sizes
        action = Discrete(sizes[0]) if len(sizes) == 1 else MultiDiscrete(sizes)
        box = Box(-np.inf, np.inf, self.mdp.features.shape[1:], np.float32)
        return box if self.mdp.mask is None else MaskedBox(box, self.mdp.mask[0].numel()), action

    def initial(self, noise: Tensor) -> Tensor:
        bounds = self.mdp.start.cumsum(0)[:-1]
        x = (noise[:, :1] > bounds).sum(-1, keepdim=True)
        return torch.cat([x, torch.zeros_like(x), noise[:, 1:]], -1)

    def transition(self, xp: Any, state: Any, action: Any) -> tuple[Any, Any, Any]:
        lane = np.arange(len(state))
        x, time = state[:, 0].astype(np.int64), state[:, 1].astype(np.int64)
        j = action
        if action.ndim > 1:
            j = np.ravel_multi_index(tuple(action.T), self.mdp.sizes)
        k = (state[lane, 2 + time][:, None] > self.bounds[x, j]).sum(-1)
        successor, reward = (table[x, j, k] for table in self.tables)
        after = state.copy()
        after[:, 0], after[:, 1] = successor, time + 1
        return after, reward, successor == len(self.mdp.start)

    def observe(self, xp: Any, state: Any) -> Any:
        return self.features[state[:, 0].astype(np.int64)]

    def take(self, each: Trajectories) -> None:
        """Put every lane at the start of one trajectory, with the numbers that lead along it."""
        edges = pad(pad(torch.from_numpy(self.bounds), (1, 0)), (0, 1), value=1.0)
        middle = (edges[..., 1:] + edges[..., :-1]) / 2
        tape = middle[each.state, each.action, each.outcome]
        tape = pad(tape, (0, self.mdp.longest - tape.shape[1]), value=0.5)
        first = torch.stack([each.state[:, 0], torch.zeros_like(each.state[:, 0])], 1)
        self.state = torch.cat([first, tape], 1).float()
