"""Where the lanes of a run stand, as tensors for a checkpoint, and how to stand there again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray
from torch import Tensor

from rlgrad.chunked import ChunkedVectorEnv
from rlgrad.lanes import Lanes
from rlgrad.seeded import Place
from rlgrad.simulators.base import TorchVectorEnv

PREFIX = "lanes."


def _are_seeded(lanes: Lanes) -> bool:
    """Whether lanes keep their episodes, see ``SeededEpisodes``; no lane may wait for a reset."""
    known = isinstance(lanes.env, (SyncVectorEnv, AsyncVectorEnv, ChunkedVectorEnv))
    return known and lanes.mode is AutoresetMode.SAME_STEP


def places(lanes: Lanes, observation: Any) -> dict[str, Tensor]:
    """Where L lanes stand; empty for an environment that cannot tell.

    Args:
        lanes: that have been reset.
        observation: ``[L, F]``, their last.
    """
    if lanes.simulator is not None:
        assert lanes.simulator.state is not None
        found = {
            "state": lanes.simulator.state.clone(),
            "elapsed": lanes.simulator.elapsed.clone(),
            "starts": lanes.simulator.starts.used,
        }
    elif _are_seeded(lanes):
        each: Sequence[Place] = lanes.env.call("place")  # type: ignore[attr-defined]
        actions = np.concatenate([place.actions for place in each])
        small = actions.size and actions.min() >= 0 and actions.max() < 256
        found = {
            "observation": torch.tensor(observation),
            "root": torch.tensor([place.root for place in each]),
            "episode": torch.tensor([place.episode for place in each]),
            "total": torch.tensor([place.total for place in each], dtype=torch.float64),
            "steps": torch.tensor([len(place.actions) for place in each]),
            "actions": torch.tensor(actions, dtype=torch.uint8 if small else torch.int64),
        }
    else:
        found = {}
    return {PREFIX + name: x for name, x in found.items()}


def take_places(
    lanes: Lanes, tensors: Mapping[str, Tensor], seeds: Sequence[int]
) -> tuple[Any, NDArray[np.bool_]]:
    """Put L lanes where ``places`` found them.

    Args:
        lanes: made as those were.
        tensors: of a checkpoint.
        seeds: of the first reset.

    Returns:
        Observations ``[L, F]``, and which lanes stand where they stood, ``[L]``; the others have
        started a new episode.

    Raises:
        KeyError, ValueError, RuntimeError: for tensors of other lanes.
    """
    found = {k.removeprefix(PREFIX): x for k, x in tensors.items() if k.startswith(PREFIX)}
    observation = lanes.reset(seeds)
    if lanes.simulator is not None and "starts" in found:  # older checkpoints cannot say which
        return _simulated(lanes, lanes.simulator, found), np.ones(lanes.count, dtype=bool)
    if lanes.simulator is None and _are_seeded(lanes) and "actions" in found:
        return _replayed(lanes, found, len(observation[0]))
    return observation, np.zeros(lanes.count, dtype=bool)


def _simulated(lanes: Lanes, simulator: TorchVectorEnv, found: Mapping[str, Tensor]) -> Any:
    observation = simulator.restore(found["state"], found["elapsed"]).flatten(1)
    simulator.starts.used = found["starts"]
    return observation if lanes.xp is torch else observation.numpy()


def _replayed(
    lanes: Lanes, found: Mapping[str, Tensor], features: int
) -> tuple[Any, NDArray[np.bool_]]:
    L = lanes.count
    seen = found["observation"].reshape(L, features).numpy()
    root, episode, total, steps = (
        found[key].reshape(L).tolist() for key in ("root", "episode", "total", "steps")
    )
    actions = [each.numpy() for each in found["actions"].to(torch.int64).split(steps)]
    wanted = list(map(Place, root, episode, actions, total, seen))
    lanes.env.set_attr("place_to_take", wanted)  # type: ignore[attr-defined]
    observations, same = zip(*lanes.env.call("take_place"), strict=True)  # type: ignore[attr-defined]
    x = np.stack([np.asarray(each).astype(lanes.dtype).reshape(-1) for each in observations])
    return x, np.array(same)
