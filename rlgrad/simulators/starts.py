"""The states that lanes' episodes start from: a pure function of (a lane's seed, episode)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rlgrad.streams import Purpose, Streams, uniform

ROWS = 64  # starts of a lane that are made at a time, at most
AHEAD = 1 << 14  # starts of all lanes that are made at a time on the CPU, where memory is slow


class Starts:
    """A table of the starts that come next in every lane, filled in bulk.

    Start k of a lane takes the numbers (RESET, iteration k, lane 0) of the lane's seed, so it
    does not matter when a table is filled, nor how many rows it has, nor what other lanes do.

    Args:
        seeds: L, one per lane.
        device: where the table lives.
        initial: states ``[n, ...]`` from numbers in (0, 1) ``[n, numbers]``.
        numbers: that a start takes.
        native: gives a tensor's memory as an array of the library that reads the table.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        device: torch.device,
        initial: Callable[[Tensor], Tensor],
        numbers: int,
        native: Callable[[Tensor], Any],
    ) -> None:
        self.streams, self._initial, self._numbers = Streams(seeds, device), initial, numbers
        self.lanes = len(seeds)
        few = max(4, min(ROWS, AHEAD // self.lanes))
        self.most = ROWS
        """Rows of a table beyond which memory outweighs the operations that are saved."""
        self._native = native
        self._lane = torch.arange(self.lanes, device=device)
        self._first, self._cursor = torch.zeros_like(self._lane), self._lane.clone()
        self.provide(few if device.type == "cpu" else ROWS)

    def provide(self, rows: int) -> None:
        """Make the table one of so many rows, in memory of its own, from the next starts on."""
        self._first, self._cursor = self.used, self._lane.clone()
        self._row = torch.arange(rows, device=self._lane.device).unsqueeze(1)
        self._rows, self._left = rows, rows
        self._starts = self._next()
        self._table, self._at = self._native(self._starts), self._native(self._cursor)

    @property
    def used(self) -> Tensor:
        """``[L]``, how many starts each lane has taken; setting it goes on from there."""
        return self._first + self._cursor.div(self.lanes, rounding_mode="floor")

    @used.setter
    def used(self, counts: Tensor) -> None:
        self._first.copy_(counts.view(self.lanes))
        self._cursor.copy_(self._lane)
        self.fill()

    def tensors(self) -> list[Tensor]:
        """What changes as starts are taken, in memory that stays."""
        return [self._first, self._cursor, self._starts]

    def _next(self) -> Tensor:
        """Row by row the starts of all lanes from ``_first`` on, ``[rows * L, ...]``."""
        blocks = -(-self._numbers // 4)
        shape = 4, self._rows, self.lanes, 1, blocks
        counter = torch.zeros(shape, dtype=torch.int64, device=self._lane.device)
        counter[0] = torch.arange(blocks, device=self._lane.device)
        counter[2] = (self._first + self._row).view(self._rows, self.lanes, 1, 1)
        counter[3].fill_(int(Purpose.RESET))
        words = torch.stack(self.streams.philox(counter, self.streams.key), -1)
        return self._initial(uniform(words.flatten(0, 1).flatten(1)[:, : self._numbers]))

    def fill(self) -> None:
        """Make the next starts of all lanes, in the memory of the last.

        After it ``take_where`` needs no other filling for as many steps as there are rows. Nothing
        waits for the device: what is captured from here on may be replayed.
        """
        self._first.copy_(self.used)
        self._cursor.copy_(self._lane)
        self._starts.copy_(self._next())
        self._left = self._rows

    def take(self, lanes: Any) -> Any:
        """The next starts ``[n, ...]`` of the lanes numbered so, in arrays on the CPU."""
        at = self._at[lanes]
        try:
            found = self._table[at]
        except IndexError:  # one of them has taken all of its rows
            self.fill()
            at = self._at[lanes]
            found = self._table[at]
        self._at[lanes] = at + self.lanes
        return found

    def take_where(self, done: Tensor) -> Tensor:
        """``[L, ...]`` whose rows are the next starts of the lanes marked, in tensors.

        An episode takes a step at least, so the rows last for as many calls as there are rows.
        """
        table, cursor = self.serve()
        found = table[cursor]
        cursor += done * self.lanes
        return found

    def serve(self) -> tuple[Tensor, Tensor]:
        """The table and the rows that come next in it, for who moves them on by one at most."""
        if self._left == 0:
            self.fill()
        self._left -= 1
        return self._starts, self._cursor
