"""What torchrun tells a process in its environment; torch is not needed to read it."""

from __future__ import annotations

import os
from typing import NamedTuple

from rlgrad.errors import UsageError, shown

_NAMES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class AgreedError(UsageError):
    """A fault that every process knows of."""


class LostError(UsageError):
    """A message did not come through: a process is gone, or says why it ends."""


class Launch(NamedTuple):
    """Which of how many processes this one is."""

    rank: int
    """From 0; 0 leads."""
    size: int
    local_rank: int
    """Among the processes of this machine."""
    local_size: int


def _number(name: str, default: int, least: int) -> int:
    text = os.environ.get(name, str(default))
    if not (text.isascii() and text.isdigit() and int(text) >= least):
        raise UsageError(
            f"{name}={shown(text)} in the environment; expected a whole number of at least "
            f"{least}, as torchrun sets it: unset it, or start by torchrun"
        )
    return int(text)


def launched() -> Launch | None:
    """The place among the processes of a torchrun; None: this process is alone.

    Raises:
        UsageError: where the environment says what torchrun never does.
    """
    if any(name not in os.environ for name in _NAMES):
        return None
    rank, size = _number("RANK", 0, 0), _number("WORLD_SIZE", 1, 1)
    if size == 1:
        return None
    if rank >= size:
        raise UsageError(
            f"RANK={rank} and WORLD_SIZE={size} in the environment; ranks count from 0"
        )
    local = _number("LOCAL_RANK", rank, 0)
    return Launch(rank, size, local, _number("LOCAL_WORLD_SIZE", size, 1))


def hush() -> None:
    """Let torch's messages between processes print no stacks of their own: faults are told here.

    Before torch is imported.
    """
    if launched() is not None:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def refuse(what: str, instead: str) -> None:
    """Refuse what makes no sense in several processes.

    Raises:
        AgreedError: where there are several.
    """
    found = launched()
    if found is not None:
        raise AgreedError(
            f"{what} cannot be spread over the {found.size} processes of a torchrun; {instead}"
        )
