"""A courier in a street of houses: fetch a parcel from one house and bring it to another."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Dict, Discrete, MultiBinary
from numpy.typing import NDArray

LEFT, RIGHT, TAKE, GIVE = range(4)
Observation = dict[str, Any]


class MyEnv(gymnasium.Env[Observation, np.int64]):
    """The parcel lies in one house and belongs into another; each step costs a hundredth.

    Args:
        houses: in the street.
        render_mode: None, or rgb_array for `rlgrad watch`.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 5}

    def __init__(self, houses: int = 5, render_mode: str | None = None) -> None:
        self.houses, self.render_mode = houses, render_mode
        house = Discrete(houses)
        self.observation_space = Dict(
            {"at": house, "parcel": house, "goal": house, "carried": MultiBinary(1)}
        )
        self.action_space = Discrete(4)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode; all chance is drawn from ``self.np_random``, which ``seed`` sets."""
        super().reset(seed=seed)
        self.at = int(self.np_random.integers(self.houses))
        parcel, goal = self.np_random.choice(self.houses, 2, replace=False)
        self.parcel, self.goal, self.carried = int(parcel), int(goal), False
        return self._observation(), self._info()

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Act; the time limit truncates, so the environment itself never does."""
        if action in (LEFT, RIGHT):
            self.at += 1 if action == RIGHT else -1
        else:
            self.carried = bool(action == TAKE)
        if self.carried:
            self.parcel = self.at
        delivered = self.parcel == self.goal and not self.carried
        reward = 1.0 if delivered else -0.01
        return self._observation(), reward, delivered, False, self._info()

    def render(self) -> NDArray[np.uint8]:
        """The street: the goal green, the parcel red, the courier a bar above."""
        picture = np.full((2, self.houses, 3), 255, dtype=np.uint8)
        picture[1, self.goal] = 60, 160, 60
        picture[1, self.parcel] = 200, 40, 40
        picture[0, self.at] = 40, 40, 40
        return picture.repeat(48, axis=0).repeat(48, axis=1)

    def get_action_meanings(self) -> list[str]:
        """Names of the actions, for the panel of `rlgrad watch`."""
        return ["left", "right", "take", "give"]

    def _observation(self) -> Observation:
        carried = np.array([self.carried], dtype=np.int8)
        return {"at": self.at, "parcel": self.parcel, "goal": self.goal, "carried": carried}

    def _info(self) -> dict[str, Any]:
        """Optional: which actions make sense here. Those that do not are then never taken."""
        here = self.at == self.parcel and not self.carried
        free = [self.at > 0, self.at < self.houses - 1, here, self.carried]
        return {"action_mask": np.array(free, dtype=np.int8)}
