"""Discrete, MultiDiscrete and MultiBinary actions as D factors of A categories, counted from 0."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Discrete, MultiBinary, MultiDiscrete
from numpy.typing import NDArray
from torch import Tensor

from rlgrad.errors import shown


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
        self._first = np.cumsum([0, *self.sizes[:-1]])
        self._exists = np.arange(max(self.sizes)) < np.array(self.sizes)[:, None]

    @property
    def outputs(self) -> int:
        """D x A, numbers that a policy puts out."""
        return len(self.sizes) * max(self.sizes)

    def allowed(self, mask: Any) -> NDArray[np.bool_]:
        """A mask of one action as ``[D, A]`` bool; False where a factor has no such category.

        Args:
            mask: 0 or 1 for each category: ``[A]`` for Discrete; a tuple with one row per factor,
                or their numbers in a row, for MultiDiscrete and MultiBinary.

        Raises:
            ValueError: for anything else, and where a factor is left without any category.
        """
        rows = mask if isinstance(mask, (tuple, list)) else [mask]
        flat = np.concatenate([np.ravel(row) for row in rows]) if rows else np.zeros(0)
        kept = flat == 1
        if flat.size != sum(self.sizes) or not ((flat == 0) | kept).all():
            raise ValueError(
                f"an action_mask {shown(mask)}; expected {sum(self.sizes)} numbers 0 or 1, one for "
                "each category of each factor of an action"
            )
        if not np.logical_or.reduceat(kept, self._first).all():
            which = "" if len(self.sizes) == 1 else " in a factor"
            raise ValueError(f"an action_mask that allows no action{which}: {shown(mask)}")
        table = np.zeros(self._exists.shape, dtype=np.bool_)
        table[self._exists] = kept
        return table

    def outside(self, action: Any) -> Any:
        """Actions ``[n, D]`` int64, an array or a tensor, as the space has them ``[n, *shape]``."""
        if self._start is not None:
            tensor = isinstance(action, Tensor)
            action = action + (action.new_tensor(self._start) if tensor else self._start)
        action = action.reshape((len(action), *self.shape))
        if self.dtype != np.int64 and isinstance(action, np.ndarray):
            action = action.astype(self.dtype)
        return action
