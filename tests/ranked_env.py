"""For tests of several processes: an environment that fails in one, and a machine that differs."""

import os

import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv

if os.environ.get("RANKED_OTHER") == os.environ.get("RANK", ""):
    from rlgrad.ranks import joining

    usual = joining.versions
    joining.versions = lambda: {**usual(), "torch": "0.0"}  # as on a machine with another torch


class Breaking(CartPoleEnv):
    """CartPole that raises in a lane of the second process, once that has taken many steps."""

    taken = 0

    def step(self, action):
        Breaking.taken += 1
        if Breaking.taken > 600 and os.environ.get("RANK") == "1":
            raise RuntimeError("the pole fell off")
        return super().step(action)


gymnasium.register("ranked/Breaking-v0", Breaking, max_episode_steps=50)
