"""The memory of a simulator, and the library that does its arithmetic."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

FEW = 64  # lanes


def rows(columns: Any) -> Any:
    """The same ``[lanes, ...]`` in memory of its own, lane by lane.

    One assignment walks over a lane's few components at a time, which is slow for many lanes.
    """
    if len(columns) < FEW:
        return columns.copy()
    rows = np.empty(columns.shape, columns.dtype)
    for i in range(columns.shape[1]):
        rows[:, i] = columns[:, i]
    return rows


def by_component(state: Tensor) -> Tensor:
    """The same ``[lanes, ...]`` tensor, each component of all lanes in one piece of memory."""
    return state.T.contiguous().T if state.ndim == 2 else state


class Arrays:
    """numpy on the CPU, torch elsewhere.

    Args:
        device: where all tensors live.
        dtype: of numbers that are no integers.
    """

    numpy_on_cpu: ClassVar[bool] = True
    """Whether numpy does the arithmetic on the CPU; without it torch does, as on a GPU."""

    def __init__(self, device: torch.device | str, dtype: torch.dtype) -> None:
        self.device, self.dtype = torch.device(device), dtype
        self._on_cpu = self.device.type == "cpu" and self.numpy_on_cpu
        self.xp: Any = np if self._on_cpu else torch
        self._filled: tuple[float, Any] | None = None

    def _native(self, x: Tensor) -> Any:
        """The same memory as an array of the library that does the arithmetic.

        On the CPU that is numpy: small batches cost dispatch, and numpy has less of it.
        """
        return x.numpy() if self._on_cpu else x

    def array(self, numbers: Any) -> Any:
        """Numbers in an array of ``xp``, in the precision of states."""
        return self._native(torch.tensor(numbers, dtype=self.dtype, device=self.device))

    def numbers(self, *numbers: float) -> list[Any]:
        """Constants as ``transition`` takes them fastest: to numpy a Python number is work."""
        return [self.array(each) if self._on_cpu else each for each in numbers]

    def _columns(self, state: Any) -> Any:
        """A copy whose memory is component by component, where arithmetic is fastest."""
        return np.array(state, order="F") if self._on_cpu else by_component(state.clone())

    def _full(self, number: float, lanes: int) -> Any:
        """``[lanes]`` times one number, the same memory as the last time."""
        if self._filled is None or self._filled[0] != number:
            full = torch.full((lanes,), number, dtype=self.dtype, device=self.device)
            self._filled = number, self._native(full)
        return self._filled[1]
