"""TensorBoard's records around bytes, with their checksums taken by numpy."""

from __future__ import annotations

import struct
from io import BufferedIOBase

import numpy as np
from numpy.typing import NDArray

_POLYNOMIAL = 0x82F63B78  # CRC-32C, the lowest bit first
_MOST = 256
"""Bytes that are looked up together."""
_FEW = 16
"""Bytes that are looked up one by one."""
_MASK = 0xA282EAD8
_WORD = 0xFFFFFFFF
_BEFORE = np.arange(_MOST - 1, -1, -1)


def _tables() -> NDArray[np.uint32]:
    """``[distance, byte]``: what a byte adds to the checksum if so many bytes come after it.

    A checksum is linear: it is the exclusive or of what each byte adds by itself.
    """
    row: NDArray[np.uint32] = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        row = row >> np.uint32(1) ^ (row & np.uint32(1)) * np.uint32(_POLYNOMIAL)
    tables, first = np.empty((_MOST, 256), np.uint32), row
    for distance in range(_MOST):
        tables[distance] = row
        row = row >> np.uint32(8) ^ first[row & np.uint32(0xFF)]
    return tables


class Frames:
    """Writes records to a file: length, its checksum, the bytes, their checksum.

    Args:
        file: open for writing; closed by ``close``.
    """

    _known: NDArray[np.uint32] | None = None

    def __init__(self, file: BufferedIOBase) -> None:
        self._file = file
        if Frames._known is None:
            Frames._known = _tables()
        self._tables = Frames._known
        self._first: list[int] = self._tables[0].tolist()

    def checksum(self, data: bytes) -> int:
        """CRC-32C of some bytes (Castagnoli, Bräuer & Herrmann 1993, doi:10.1109/26.231911)."""
        state = _WORD
        if len(data) <= _FEW:
            for byte in data:
                state = state >> 8 ^ self._first[(state ^ byte) & 0xFF]
            return state ^ _WORD
        given = np.frombuffer(data, np.uint8)
        for start in range(0, len(given), _MOST):
            part = given[start : start + _MOST].copy()
            begun = np.frombuffer(struct.pack("<I", state), np.uint8)[: len(part)]
            part[: len(begun)] ^= begun
            places = _BEFORE[-len(part) :]
            # What the state holds beyond a part of less than four bytes, moves down.
            state = int(np.bitwise_xor.reduce(self._tables[places, part])) ^ state >> 8 * len(begun)
        return state ^ _WORD

    def _masked(self, data: bytes) -> bytes:
        """The checksum as TensorBoard stores it, turned and shifted."""
        sum_ = self.checksum(data)
        return struct.pack("<I", ((sum_ >> 15 | sum_ << 17 & _WORD) + _MASK) & _WORD)

    def write(self, data: bytes) -> None:
        """One record."""
        header = struct.pack("<Q", len(data))
        self._file.write(header + self._masked(header) + data + self._masked(data))

    def flush(self) -> None:
        """Hand what was written to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Flush and close."""
        self._file.close()
