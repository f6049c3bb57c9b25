"""Discrete, MultiDiscrete and MultiBinary actions as D factors of A categories, counted from 0."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Discrete, MultiBinary, MultiDiscrete
from torch import Tensor


class Actions:
    """One action of a space as ``factors`` choices of at most ``categories`` each.

    Args:
        space: Discrete, MultiDiscrete or MultiBinary, of any shape and start.

    Raises:
        TypeError: for another space.
    """

    def __init__(self, space: Space[Any]) -> None:
        if isinstance(space, Discrete):
            sizes, start = np.array(space.n), np.array(space.start)
        elif isinstance(space, MultiDiscrete):
            sizes, start = space.nvec, space.start
        elif isinstance(space, MultiBinary):
            sizes, start = np.full(space.shape, 2), np.zeros(space.shape)
        else:
            raise TypeError(f"got {space}; expected Discrete, MultiDiscrete or MultiBinary")
        self.sizes: tuple[int, ...] = tuple(int(size) for size in sizes.reshape(-1))
        """Categories of each factor."""
        self.shape: tuple[int, ...] = sizes.shape
        self.dtype = np.int64 if isinstance(space, Discrete) else space.dtype
        self._start = start.astype(np.int64).reshape(-1) if start.any() else None

    @property
    def outputs(self) -> int:
        """D x A, numbers that a policy puts out."""
        return len(self.sizes) * max(self.sizes)

    def outside(self, action: Any) -> Any:
        """Actions ``[n, D]`` int64, an array or a tensor, as the space has them ``[n, *shape]``."""
        if self._start is not None:
            tensor = isinstance(action, Tensor)
            action = action + (action.new_tensor(self._start) if tensor else self._start)
        action = action.reshape((len(action), *self.shape))
        if self.dtype != np.int64 and isinstance(action, np.ndarray):
            action = action.astype(self.dtype)
        return action
