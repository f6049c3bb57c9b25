"""Counts, in a lane, what its environment gives in its infos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from rlgrad.infos import Noted, Taken

_LARGEST = float(np.finfo(np.float32).max)  # TensorBoard has float32
_MOST_NAMES = 40  # of an info that are remembered, for a message


def _found(info: Any, key: str) -> Any:
    """What an info has under a key, or along a path with dots; None: nothing."""
    if isinstance(info, Mapping):
        if key in info:
            return info[key]
        head, _, rest = key.partition(".")
        return _found(info.get(head), rest) if rest else None
    head, _, rest = key.partition(".")
    if isinstance(info, (Sequence, np.ndarray)) and head.isdecimal() and int(head) < len(info):
        inner = info[int(head)]
        return _found(inner, rest) if rest else inner
    return None


def _number(value: Any) -> float | None:
    """A finite number that TensorBoard can hold; None: it is none."""
    if isinstance(value, np.ndarray):
        value = value.item() if value.size == 1 else None
    if value is None or isinstance(value, (str, bytes)):
        return None
    try:
        x = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None
    return x if abs(x) <= _LARGEST else None


class Counted(NamedTuple):
    """What is counted of a lane's infos."""

    keys: tuple[str, ...] = ()
    """As ``Wanted.key``; empty: nothing."""
    whole: bool = False
    """Up to the first end of an episode after each look alone, for agents that learn from whole
    episodes: what a lane does after it is no transition."""


NOTHING = Counted()


class Notes:
    """Counts what one lane's infos give.

    Args:
        counted: what is counted.
    """

    def __init__(self, counted: Counted) -> None:
        self.keys, self.whole = tuple(dict.fromkeys(counted.keys)), counted.whole
        self._clear()

    def _clear(self) -> None:
        self._noted: dict[str, Noted] = {}
        self._names: set[str] = set()
        self._over = False

    def add(self, info: Any, ended: bool) -> None:
        """A step's info, and whether the episode ended with it."""
        if self._over or not isinstance(info, Mapping):
            return
        if len(self._names) < _MOST_NAMES:
            self._names.update(map(str, info))
        for key in self.keys:
            x = _number(_found(info, key))
            if x is not None:
                noted, before = Noted.of(x, ended), self._noted.get(key)
                self._noted[key] = noted if before is None else before.with_(noted)
        self._over = self.whole and ended

    def take(self) -> Taken:
        """What was counted since the last look."""
        taken = Taken(self._noted, frozenset(self._names))
        self._clear()
        return taken


class InfoNotes(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment whose infos are counted.

    Args:
        env: gives them.
        counted: what is counted.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], counted: Counted) -> None:
        super().__init__(env)
        self.notes = Notes(counted)

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Act, and count."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.notes.add(info, bool(terminated or truncated))
        return observation, reward, terminated, truncated, info

    def take_infos(self) -> Taken:
        """What was counted since the last look."""
        return self.notes.take()
