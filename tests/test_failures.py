"""A seed whose numbers stop being finite fails alone, says why, and keeps what it had."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from rlgrad import load, train

torch.set_num_threads(1)


class Rare(gymnasium.Env):
    """Pays an odd reward at one moment, in the lanes whose first observation says so."""

    observation_space, action_space = Box(-1, 1, (1,), np.float32), Discrete(2)

    def __init__(self, odd):
        self.odd, self.time = odd, 0

    def _observe(self):
        return self.np_random.uniform(-1, 1, 1).astype(np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._observe(), {}

    def step(self, action):
        self.time += 1
        # Lanes are made in order, seed by seed: of three seeds with four lanes the second's.
        struck = self.time == 20 and 4 <= self.lane < 8
        return self._observe(), self.odd if struck else float(action), False, False, {}


@pytest.mark.parametrize("agent", ["actor-critic", "relax", "relax-network"])
@pytest.mark.parametrize(
    ("odd", "why"),
    [
        (1e30, "numbers became infinite"),
        (
            float("nan"),
            "the environment gave the reward nan in lane 0 of seed 1, after 80 env steps",
        ),
    ],
)
def test_the_others_go_on(tmp_path, agent, odd, why):
    made = []

    def make(**_):
        env = Rare(odd)
        env.lane = len(made) - 1  # the first was made to look at
        made.append(env)
        return env

    gymnasium.register("own/Rare-v0", make, max_episode_steps=10)
    try:
        settings = {"num_envs": 4, "num_steps": 8, "hidden": (8,), "quiet": True, "vec": "sync"}
        run = train(
            "own/Rare-v0", agent, seeds=3, total_timesteps=320, log_dir=str(tmp_path), **settings
        )
        first, second, third = run.result()["seeds"]
        assert [first["status"], second["status"], third["status"]] == [
            "finished",
            "failed",
            "finished",
        ]
        assert why in second["reason"]
        assert first["evaluation"]
        for seed in range(3):  # also the one that failed: at its last good update
            state = load(run, seed).policy.state_dict().values()
            assert all(bool(x.isfinite().all()) for x in state)
    finally:
        del gymnasium.registry["own/Rare-v0"]
