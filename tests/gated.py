"""CartPole that waits at its 300th step while a gate is shut: who waits cannot be done too soon."""

from __future__ import annotations

import time
from pathlib import Path

import gymnasium
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

AT = 300  # steps of one environment, those that are replayed included


class Gated(CartPoleEnv):
    """Waits until a file is there."""

    def __init__(self, gate, **kwargs):
        super().__init__(**kwargs)
        self.gate, self.count = Path(gate), 0

    def step(self, action):
        self.count += 1
        while self.count == AT and not self.gate.exists():
            time.sleep(0.05)
        return super().step(action)


gymnasium.register("Gated-v0", Gated, max_episode_steps=500)
