"""Joining a Ray cluster, or starting one here, with all that Ray would say kept to itself."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

from rlgrad.cluster.address import reached, running
from rlgrad.errors import UsageError


@dataclass(frozen=True)
class Joined:
    """A cluster, as it was when it was joined."""

    cpus: int
    gpus: int
    nodes: int
    told: str
    """In words."""


def capacities() -> list[dict[str, float]]:
    """What each node that is alive has in all: CPU, GPU and whatever else it names."""
    import ray

    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def join(address: str, cpus: int) -> Joined:
    """Connect this process.

    Args:
        address: see ``address.ADDRESS``.
        cpus: of a cluster that is started here.

    Raises:
        UsageError: where no cluster answers, or it does not let us in.
    """
    # Nothing is sent to Ray's makers; set before ray is imported, which reads it then.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    found = "" if address == "local" else running() if address == "auto" else reached(address)
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    try:
        if found:
            ray.init(address=found, **quiet)
        else:
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
    except (Exception, SystemExit) as error:
        where = f"the Ray cluster at {found} cannot be joined" if found else "Ray cannot be started"
        said = " ".join(str(error).split())[:500]
        raise UsageError(f"{where}: {type(error).__name__}: {said}") from None
    nodes = capacities()
    total = [int(sum(node.get(kind, 0) for node in nodes)) for kind in ("CPU", "GPU")]
    size = f"{len(nodes)} node{'s' * (len(nodes) > 1)}, {total[0]} CPUs, {total[1]} GPUs"
    told = f"joined Ray at {found}" if found else "started Ray on this machine"
    return Joined(total[0], total[1], len(nodes), f"{told}: {size}")
