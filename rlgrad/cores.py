"""How many cores there are to use."""

from __future__ import annotations

import os

from rlgrad.ranks.launch import launched


def cores() -> int:
    """Cores that this process may use, which may be fewer than the machine has.

    Processes of a torchrun on one machine share what it has.
    """
    if hasattr(os, "sched_getaffinity"):
        found = len(os.sched_getaffinity(0))
    else:
        found = os.cpu_count() or 1
    launch = launched()
    return found if launch is None else max(1, found // launch.local_size)
