"""Messages between the processes of a torchrun, and what to say when one of them is gone.

Tensors go by ``torch.distributed``: gloo on the CPU, NCCL between GPUs. Words about faults go by
the store that torchrun's agent keeps, which outlives any of the processes.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from rlgrad.errors import UsageError
from rlgrad.ranks.launch import Launch, LostError

_KEYS = "rlgrad"
PATIENCE = 3.0
"""Seconds in which the others have to show that they are still there when a message fails."""


def connect(launch: Launch, timeout: float) -> Any:
    """The store that all processes of a torchrun share.

    Raises:
        UsageError: where it cannot be reached in so many seconds.
    """
    try:
        found, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=timeout)))
    except (RuntimeError, ValueError, OSError) as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        why = str(error).split("\n")[0][:200]
        raise UsageError(
            f"rank {launch.rank} of {launch.size} found no store at {where} within "
            f"{timeout:,.0f} s: {why}; start all processes, or check the address"
        ) from None
    return PrefixStore(f"{_KEYS}/{len(_present)}", found)


_present: list[Group] = []
"""Those that this process has been in, one training after another; each has keys of its own."""


def present() -> Group | None:
    """The group that this process is in, or was."""
    return _present[-1] if _present else None


class Group:
    """The processes of a torchrun.

    Args:
        launch: which of them this one is.
        timeout: seconds that a message waits for the slowest.

    Raises:
        UsageError: where not all of them come within the timeout.
    """

    def __init__(self, launch: Launch, timeout: float) -> None:
        self.launch, self.rank, self.size = launch, launch.rank, launch.size
        self.timeout, self.broken = timeout, False
        self.seconds, self.messages = 0.0, 0
        """Spent in messages, waiting included, and how many there were."""
        self.store, self._at = connect(launch, timeout), [""] * launch.size
        self._set("at", f"process {os.getpid()} on {socket.gethostname()}")
        _present.append(self)
        backend = "gloo"
        if torch.cuda.is_available() and dist.is_nccl_available():
            backend = "cpu:gloo,cuda:nccl"
        self._talk(
            dist.init_process_group,
            backend,
            store=PrefixStore("group", self.store),
            rank=self.rank,
            world_size=self.size,
            timeout=timedelta(seconds=timeout),
        )
        self._at = [self._get("at", rank) for rank in range(self.size)]

    def _set(self, key: str, text: str) -> None:
        with suppress(RuntimeError):  # a store that is gone
            self.store.set(f"{key}/{self.rank}", text or " ")

    def _get(self, key: str, rank: int) -> str:
        """What another process has set; empty: nothing, or the store is gone."""
        with suppress(RuntimeError):
            if self.store.check([f"{key}/{rank}"]):
                return str(self.store.get(f"{key}/{rank}").decode())
        return ""

    def _talk(self, function: Callable[..., object], *args: object, **named: object) -> None:
        """Call what waits for other processes.

        Raises:
            LostError: where one of them is gone, or too late.
        """
        began, why = time.monotonic(), ""
        try:
            function(*args, **named)
        except RuntimeError as error:  # of gloo, NCCL or the store; they have no type of their own
            why = str(error) or "no reason is given"
        spent = time.monotonic() - began
        self.seconds, self.messages = self.seconds + spent, self.messages + 1
        if why:  # here the error is forgotten, and with its frames the connections can be closed
            raise self._lost(spent >= 0.9 * self.timeout, why)

    def leave(self) -> None:
        """Close the connections, which lets the others notice."""
        self.broken = True
        with suppress(RuntimeError, ValueError, AssertionError):
            dist.destroy_process_group()

    def _lost(self, late: bool, why: str) -> LostError:
        """Which processes are gone, or what they said before; waits a moment for the others."""
        self._set("here", "1")
        self.leave()
        others = [rank for rank in range(self.size) if rank != self.rank]
        until, silent = time.monotonic() + PATIENCE, others
        while time.monotonic() < until:
            for rank in others:
                fault = self._get("fault", rank)
                if fault:
                    return LostError(fault if rank == 0 else f"rank {rank}: {fault}")
            silent = [rank for rank in others if not self._get("here", rank)]
            if not silent:
                break
            time.sleep(0.05)
        if not silent:
            return LostError(f"the processes lost touch: {why.splitlines()[0][:200]}")
        named = " and ".join(f"rank {i} ({self._at[i] or 'never seen'})" for i in silent)
        if late:
            return LostError(
                f"{named} did not answer within {self.timeout:,.0f} s; if it is only slow, give "
                "more with --rank-timeout"
            )
        were = "were" if len(silent) > 1 else "was"
        return LostError(f"{named} {were} lost: killed, or out of reach")

    def fail(self, text: str) -> None:
        """Let the others know why this process ends."""
        if not self.broken:
            self._set("fault", text)
            self.leave()

    # ------------------------------------------------------------------------------- messages

    def add(self, x: Tensor) -> None:
        """Sum over all processes, in place."""
        self._talk(dist.all_reduce, x)

    def everyone(self, x: Tensor) -> list[Tensor]:
        """What each process has, all of the same shape, by rank."""
        found = [torch.empty_like(x) for _ in range(self.size)]
        self._talk(dist.all_gather, found, x)
        return found

    def gather(self, x: Tensor) -> list[Tensor]:
        """What each process has, all of the same shape, at rank 0; nothing elsewhere."""
        found = [torch.empty_like(x) for _ in range(self.size if self.rank == 0 else 0)]
        self._talk(dist.gather, x, found or None, dst=0)
        return found

    def spread(self, x: Tensor) -> Tensor:
        """What rank 0 has, of the shape of ``x``, written into it."""
        self._talk(dist.broadcast, x, 0)
        return x

    def texts(self, mine: bytes) -> list[bytes]:
        """Bytes of each process, by rank, of any length."""
        row, lengths = self._row(mine)
        return _cut(self.everyone(row), lengths)

    def collected(self, mine: bytes) -> list[bytes]:
        """Bytes of each process, by rank, at rank 0; nothing elsewhere."""
        row, lengths = self._row(mine)
        return _cut(self.gather(row), lengths)

    def _row(self, mine: bytes) -> tuple[Tensor, list[int]]:
        """Bytes in a row as long as the longest, and the lengths of all."""
        lengths = [int(x) for x in self.everyone(torch.tensor([len(mine)]))]
        row = torch.zeros(max(1, *lengths), dtype=torch.uint8)
        row.numpy()[: len(mine)] = np.frombuffer(mine, dtype=np.uint8)
        return row, lengths


def _cut(rows: Sequence[Tensor], lengths: Sequence[int]) -> list[bytes]:
    return [x[:n].numpy().tobytes() for x, n in zip(rows, lengths, strict=False)]
