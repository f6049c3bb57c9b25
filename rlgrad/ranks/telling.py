"""What ends a run of several processes, told once: by the leader, or by whoever is left."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from rlgrad import terminal
from rlgrad.errors import UsageError
from rlgrad.ranks.launch import AgreedError, Launch, launched

GRACE = 5.0
"""Seconds in which the leader has to say it."""


def tell(error: BaseException | str) -> None:
    """A line on standard error; of several processes the leader shows it.

    Another process shows it where the leader has not said anything for a moment.
    """
    try:
        launch = launched()
    except UsageError:
        launch = None
    if launch is None:
        terminal.tell(f"rlgrad: {error}")
    elif launch.rank == 0:
        terminal.tell(f"rlgrad: {error}")
        with suppress(UsageError, RuntimeError):
            _store(launch).set("told", "1")
    elif not isinstance(error, AgreedError) and _is_first(launch, str(error)):
        terminal.tell(f"rlgrad: rank {launch.rank}: {error}")


def _store(launch: Launch) -> Any:
    from rlgrad.ranks.group import connect, present

    group = present()
    return connect(launch, GRACE) if group is None else group.store


def _is_first(launch: Launch, text: str) -> bool:
    """Whether the leader keeps silent, and no other has come before."""
    try:
        store, until = _store(launch), time.monotonic() + GRACE
        if not store.check([f"fault/{launch.rank}"]):
            store.set(f"fault/{launch.rank}", text)
        while time.monotonic() < until:
            if store.check(["told"]):
                return False
            time.sleep(0.05)
        return bool(store.add("tellers", 1) == 1)
    except (UsageError, RuntimeError):  # the store is gone, and with it the leader or its machine
        return True
