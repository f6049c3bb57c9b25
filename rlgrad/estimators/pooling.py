"""Batches whose rows are spread over processes: what is summed before a learner may use it.

What learns from a batch is written as a chain: a generator that yields what this process's rows
come to, and is sent what the rows of all processes come to. Who drives the chains decides how many
processes there are. Alone, each chain gets back what it gave, the same bits.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor


class Batch(NamedTuple):
    """What rows come to, seed by seed."""

    numbers: tuple[Tensor, ...]
    """Each ``[S, ...]``: means over the rows, or sums."""
    rows: Tensor | None = None
    """``[S]``, how many rows the means are of; None: the numbers are sums."""
    squares: Tensor | None = None
    """Squares about the mean, summed, in the shape of the only number; None: not asked for."""


Chain = Generator[Batch, Batch, None]


@runtime_checkable
class Pool(Protocol):
    """The processes whose rows make one batch."""

    size: int
    """How many, with as many lanes each."""

    def together(self, *chains: Chain) -> None:
        """Drive chains to their ends; those that do not wait for each other share messages.

        Every chain's first part is done before any other goes on, so that a later part of one may
        change what first parts of others read.
        """

    def pooled(self, batch: Batch) -> Batch:
        """What the rows of all processes come to."""


class Alone:
    """One process: what its rows come to is all."""

    size = 1

    def together(self, *chains: Chain) -> None:
        """One chain after another."""
        for chain in chains:
            found: Batch | None = None
            try:
                while True:
                    found = next(chain) if found is None else chain.send(found)
            except StopIteration:
                pass

    def pooled(self, batch: Batch) -> Batch:
        """The batch itself."""
        return batch


ALONE = Alone()
