"""How states ``[lanes, ...]`` lie in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor


def by_lane(columns: Any) -> Any:
    """The same ``[lanes, ...]`` array in memory of its own, lane by lane.

    One assignment would walk over many lanes' few components at a time, which is slow.
    """
    rows = np.empty(columns.shape, columns.dtype)
    for i in range(columns.shape[1]):
        rows[:, i] = columns[:, i]
    return rows


def by_component(state: Tensor) -> Tensor:
    """The same ``[lanes, ...]`` tensor, each component of all lanes in one piece of memory."""
    return state.T.contiguous().T if state.ndim == 2 else state
