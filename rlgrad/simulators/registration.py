"""The simulators as Gymnasium ids; nothing heavy is imported before one is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium

_HERE = "rlgrad.simulators"
# id: (class of the batch, Gymnasium's class of one environment or None, time limit in steps)
SIMULATORS: dict[str, tuple[str, str | None, int | None]] = {
    "rlgrad/CartPole-v1": (
        f"{_HERE}.cartpole:CartPole",
        "gymnasium.envs.classic_control.cartpole:CartPoleEnv",
        500,
    ),
    "rlgrad/Acrobot-v1": (
        f"{_HERE}.acrobot:Acrobot",
        "gymnasium.envs.classic_control.acrobot:AcrobotEnv",
        500,
    ),
    "rlgrad/MountainCar-v0": (
        f"{_HERE}.mountaincar:MountainCar",
        "gymnasium.envs.classic_control.mountain_car:MountainCarEnv",
        200,
    ),
    "rlgrad/ValueProbe-v0": (f"{_HERE}.probes:ValueProbe", None, None),
    "rlgrad/ObservationProbe-v0": (f"{_HERE}.probes:ObservationProbe", None, None),
    "rlgrad/DiscountProbe-v0": (f"{_HERE}.probes:DiscountProbe", None, None),
    "rlgrad/ActionProbe-v0": (f"{_HERE}.probes:ActionProbe", None, None),
    "rlgrad/BothProbe-v0": (f"{_HERE}.probes:BothProbe", None, None),
    "rlgrad/DialProbe-v0": (f"{_HERE}.probes:DialProbe", None, None),
    "rlgrad/TruncationProbe-v0": (f"{_HERE}.probes:TruncationProbe", None, 5),
}


def _one_lane(simulator: str) -> Callable[..., gymnasium.Env[Any, Any]]:
    def make(**kwargs: Any) -> gymnasium.Env[Any, Any]:
        from rlgrad.simulators.single import SingleLane

        return SingleLane(simulator, **kwargs)

    return make


def _register() -> None:
    for name, (batch, single, limit) in SIMULATORS.items():
        if name not in gymnasium.registry:
            gymnasium.register(
                name,
                entry_point=single or _one_lane(batch),
                vector_entry_point=batch,
                max_episode_steps=limit,
            )


_register()
