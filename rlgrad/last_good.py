"""The state before an update, so that a seed that is done or has diverged can be put back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from rlgrad.estimators.arrays import native


class LastGood:
    """A copy of tensors ``[S, ...]``, renewed before each update.

    Args:
        state: parameters, moments and statistics, changed in place by the update.
    """

    def __init__(self, state: Iterable[Tensor]) -> None:
        self.state = list(state)
        self.arrays: list[Any] = [native(x) for x in self.state]
        self.kept: list[Any] = [native(x.clone()) for x in self.state]

    def keep(self) -> None:
        """Copy what is there now."""
        for kept, now in zip(self.kept, self.arrays, strict=True):
            kept[...] = now

    def finite(self) -> list[bool]:
        """Of each seed, whether all its numbers are finite.

        Moments and statistics too: they may overflow where parameters do not.
        """
        rows = [x.reshape(len(x), -1) for x in self.arrays]
        if isinstance(rows[0], np.ndarray):
            with np.errstate(over="ignore", invalid="ignore"):
                total = np.concatenate(rows, 1, dtype=np.float32, casting="unsafe").sum(1)
            return np.isfinite(total).tolist()
        return self.finite_rows().tolist()

    def finite_rows(self) -> Bool[Tensor, " S"]:
        """As ``finite``, in a tensor on the state's device, which is not waited for."""
        rows = [x.reshape(len(x), -1).to(torch.float32) for x in self.state]
        return torch.cat(rows, 1).sum(1).isfinite()

    def put_back_where(self, seeds: Bool[Tensor, " S"]) -> None:
        """As ``put_back``, of tensors."""
        for kept, now in zip(self.kept, self.state, strict=True):
            marked = seeds.view(-1, *[1] * (now.ndim - 1))
            now.copy_(torch.where(marked, kept, now))

    def put_back(self, seeds: Sequence[bool]) -> None:
        """Restore the rows of the seeds that are marked."""
        if not any(seeds):
            return
        for kept, now in zip(self.kept, self.arrays, strict=True):
            for i in (i for i, marked in enumerate(seeds) if marked):
                now[i] = kept[i]
