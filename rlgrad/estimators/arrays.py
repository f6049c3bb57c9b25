"""Tensors as arrays of the library that dispatches fastest: numpy on the CPU, torch on a GPU.

Small operations cost dispatch, not arithmetic, and numpy dispatches several times faster than
torch. Arithmetic written with operators that both libraries have serves either.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

numpy_on_cpu = True
"""Whether numpy does the arithmetic on the CPU; without it torch does, as on a GPU."""


def in_numpy(x: Tensor) -> bool:
    """Whether ``x`` is on the CPU, where numpy and what asks for values are cheap."""
    return x.is_cpu and numpy_on_cpu


def native(x: Tensor) -> Any:
    """The memory of ``x``: an array that shares it on the CPU, ``x`` itself elsewhere; no graph."""
    if x.requires_grad:
        x = x.detach()
    return x.numpy() if in_numpy(x) else x
