"""Sums over processes, as few messages as the order of steps allows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlgrad.estimators.pooling import Batch, Chain
from rlgrad.ranks.group import Group

FEW = 1 << 16
"""Numbers that go as float64 in one message; of more, each type goes in a message of its own."""


class Spread:
    """A ``Pool`` of the processes of a group.

    Args:
        group: whose messages sum.
    """

    def __init__(self, group: Group) -> None:
        self.group, self.size = group, group.size

    def together(self, *chains: Chain) -> None:
        """All chains in step: what they yield at the same time is one message."""
        waiting = [(chain, batch) for chain in chains if (batch := next(chain, None)) is not None]
        while waiting:
            found = self._pooled([batch for _, batch in waiting])
            answered = zip(waiting, found, strict=True)
            waiting = [
                (chain, batch)
                for (chain, _), answer in answered
                if (batch := _sent(chain, answer)) is not None
            ]

    def pooled(self, batch: Batch) -> Batch:
        """What the rows of all processes come to."""
        return self._pooled([batch])[0]

    def _pooled(self, batches: Sequence[Batch]) -> list[Batch]:
        parts = [part for batch in batches for part in self._parts(batch)]
        summed = iter(self._summed(parts))
        return [_taken(batch, [next(summed) for _ in self._parts_of(batch)]) for batch in batches]

    def _parts_of(self, batch: Batch) -> range:
        """As many as ``_parts`` gives."""
        if batch.squares is not None:
            return range(3)
        return range(len(batch.numbers) + (batch.rows is not None))

    def _parts(self, batch: Batch) -> list[Tensor]:
        """What is summed of a batch: sums, or means times their rows and the rows."""
        rows = batch.rows
        if rows is None:
            return list(batch.numbers)
        if batch.squares is not None:
            # A place for each process: squares are about means that differ.
            each = (rows, *batch.numbers, batch.squares)
            return [self._placed(x) for x in each]
        return [*(x * _wide(rows, x) for x in batch.numbers), rows]

    def _placed(self, x: Tensor) -> Tensor:
        """``[size, ...]`` with ``x`` at this process's rank, and zeros elsewhere."""
        found = x.new_zeros(self.size, *x.shape)
        found[self.group.rank] = x
        return found

    def _summed(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """The sums over processes, each in the type that it came in."""
        few = sum(part.numel() for part in parts) <= FEW
        kinds = [torch.float64] * len(parts) if few else [part.dtype for part in parts]
        found: dict[int, Tensor] = {}
        for kind in dict.fromkeys(kinds):
            own = [i for i, each in enumerate(kinds) if each == kind]
            flat = torch.cat([parts[i].reshape(-1).to(kind) for i in own])
            self.group.add(flat)
            for i, x in zip(own, flat.split([parts[i].numel() for i in own]), strict=True):
                found[i] = x.view(parts[i].shape).to(parts[i].dtype)
        return [found[i] for i in range(len(parts))]


def _sent(chain: Chain, answer: Batch) -> Batch | None:
    """What a chain yields next; None: it has ended."""
    try:
        return chain.send(answer)
    except StopIteration:
        return None


def _wide(rows: Tensor, x: Tensor) -> Tensor:
    """``[S]`` against ``[S, ...]``."""
    return rows.to(x).view(-1, *[1] * (x.ndim - 1))


def _taken(batch: Batch, sums: list[Tensor]) -> Batch:
    """What the sums of ``_parts`` say."""
    if batch.rows is None:
        return Batch(tuple(sums))
    if batch.squares is not None:
        return _chan(*sums)
    *numbers, rows = sums
    return Batch(tuple(x / _wide(rows.clamp(min=1.0), x) for x in numbers), rows)


def _chan(rows: Tensor, mean: Tensor, squares: Tensor) -> Batch:
    """Moments of processes, one after another (Chan et al. 1979)."""
    count, middle, total = rows[0].clone(), mean[0].clone(), squares[0].clone()
    for n, m, q in zip(rows[1:], mean[1:], squares[1:], strict=True):
        every = (count + n).clamp(min=1.0)
        gap = m - middle
        total += q + gap * gap * _wide(count * n / every, m)
        middle += gap * _wide(n / every, m)
        count += n
    return Batch((middle,), count, total)
