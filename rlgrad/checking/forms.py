"""The form of what an environment returns: shapes, dtypes, ranges, device, infos."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from rlgrad.checking.findings import Collector

PLAIN = (Box, Discrete, MultiDiscrete, MultiBinary)
Leaves = list[NDArray[Any]]


def leaves(space: Space[Any], value: Any) -> list[Any]:
    """The arrays of an observation, in the order of its space's plain members."""
    if isinstance(space, Dict):
        return [x for key, each in space.spaces.items() for x in leaves(each, value[key])]
    if isinstance(space, Tuple):
        pairs = zip(space.spaces, value, strict=True)
        return [x for each, part in pairs for x in leaves(each, part)]
    return [value] if isinstance(space, PLAIN) else []


def leaf_spaces(space: Space[Any]) -> list[Space[Any]]:
    """The plain members of a space."""
    if isinstance(space, Dict):
        return [leaf for each in space.spaces.values() for leaf in leaf_spaces(each)]
    if isinstance(space, Tuple):
        return [leaf for each in space.spaces for leaf in leaf_spaces(each)]
    return [space] if isinstance(space, PLAIN) else []


def array(x: Any) -> NDArray[Any]:
    """A copy in numpy of an array or tensor."""
    return x.detach().cpu().numpy().copy() if isinstance(x, torch.Tensor) else np.array(x)


def arrays(x: Any) -> Iterator[Any]:
    """All arrays and tensors within what an environment returned, infos included."""
    if isinstance(x, dict):
        x = list(x.values())
    if isinstance(x, (list, tuple)) or (isinstance(x, np.ndarray) and x.dtype == np.object_):
        for each in x:
            yield from arrays(each)
    elif isinstance(x, (np.ndarray, torch.Tensor)):
        yield x


def _outside(space: Space[Any], x: NDArray[Any]) -> str:
    """Why an array of the right shape and dtype is not in a space; empty where it is."""
    if space.contains(x):
        return ""
    if x.dtype.kind == "f" and np.isnan(x).any():
        return "NaN"
    return f"a value in [{x.min():.6g}, {x.max():.6g}], outside {space}"


class Forms:
    """Judges what ``reset`` and ``step`` return.

    Args:
        env: whose spaces and lanes are meant.
        found: where faults go.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], found: Collector) -> None:
        self.space, self.lanes, self.found = env.single_observation_space, env.num_envs, found
        self.batched = [batch_space(each, self.lanes) for each in leaf_spaces(self.space)]
        if not self.batched:
            found.notes.append(f"observations of {self.space} are not compared")
        device = getattr(env, "device", None)
        self.device = device if isinstance(device, torch.device) else None

    def observation(self, name: str, value: Any, where: str) -> bool:
        """Shape, dtype and range of batched observations; whether they can be compared."""
        try:
            parts = leaves(self.space, value)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            self.found.add("space", f"{name} is not laid out as {self.space}: {error!r}", where)
            return False
        usable = True
        for space, part in zip(self.batched, parts, strict=True):
            self._device(name, part, where)
            if not isinstance(part, (np.ndarray, torch.Tensor)):
                self.found.add("space", f"{name} is a {type(part).__name__}, not an array", where)
                usable = False
                continue
            x = array(part)
            if x.shape != space.shape or x.dtype != space.dtype:
                came = f"{x.dtype} {list(x.shape)}"
                text = f"{name} is {came}; expected {space.dtype} {list(space.shape or ())}"
                self.found.add("space", text, where)
                usable &= x.shape == space.shape
            elif outside := _outside(space, x):
                kind = "NaN" if outside == "NaN" else "a value outside its space"
                self.found.add("space", f"{name} has {kind}", f"{where}: {outside}")
        return usable

    def final(self, parts: Leaves, where: str) -> None:
        """Range and shape of one lane's last observation."""
        for space, x in zip(leaf_spaces(self.space), parts, strict=True):
            plain = x.item() if isinstance(space, Discrete) and x.shape == () else x
            if isinstance(space, Discrete) or x.dtype != np.object_:
                fits = x.shape == (space.shape or ()) and space.contains(plain)
            else:
                fits = False
            if not fits:
                text = f"info['final_obs'] of a lane is {x.dtype} {list(x.shape)}, not in its space"
                self.found.add("space", text, where)

    def numbers(self, name: str, x: Any, kinds: str, where: str) -> bool:
        """Shape and kind of rewards or flags; whether they can be used."""
        check = "reward" if name == "reward" else "flags"
        self._device(name, x, where)
        if not isinstance(x, (np.ndarray, torch.Tensor)) or tuple(x.shape) != (self.lanes,):
            came = f"{list(x.shape)}" if hasattr(x, "shape") else type(x).__name__
            text = f"{name} is {came}; expected an array [{self.lanes}]"
            self.found.add(check, text, where)
            return False
        values = array(x)
        if values.dtype.kind not in kinds:
            wanted = "bool" if kinds == "b" else "numbers"
            self.found.add(check, f"{name} is {values.dtype}; expected {wanted}", where)
            return values.dtype.kind in "biuf"
        if kinds != "b" and not np.isfinite(values).all():
            lane = int(np.flatnonzero(~np.isfinite(values))[0])
            self.found.add(check, f"{name} is infinite or NaN", f"{where}, lane {lane}")
        return True

    def info(self, info: Any, where: str, path: str = "info") -> None:
        """A dict of arrays with a row per lane; ``_key`` marks the lanes whose ``key`` counts."""
        if not isinstance(info, dict):
            self.found.add("info", f"{path} is a {type(info).__name__}; expected a dict", where)
            return
        for key, value in info.items():
            name = f"{path}[{key!r}]"
            shape = tuple(getattr(value, "shape", ()))
            if not isinstance(key, str):
                self.found.add("info", f"{path} has the key {key!r}; expected a str", where)
            elif key.startswith("_") and key[1:] in info:
                if shape != (self.lanes,) or array(value).dtype != np.bool_:
                    text = f"{name} is no mask; expected bool [{self.lanes}]"
                    self.found.add("info", text, where)
            elif isinstance(value, dict):
                self.info(value, where, name)
            elif shape[:1] != (self.lanes,):
                came = list(shape) if shape else type(value).__name__
                text = f"{name} is {came}; expected an array with {self.lanes} rows"
                self.found.add("info", text, where)

    def _device(self, name: str, x: Any, where: str) -> None:
        if not isinstance(x, torch.Tensor):
            return
        if self.device is None:
            self.device = x.device
        same = x.device.type == self.device.type and self.device.index in (None, x.device.index)
        if not same:
            text = f"{name} is on {x.device}; expected {self.device}"
            self.found.add("device", text, where)
