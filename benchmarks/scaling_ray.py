"""Wall-clock of one comparison by one process, by two, and by tasks of a Ray cluster of two CPUs.

    python benchmarks/scaling_ray.py [--steps 60000] [--seeds 10] [--agents ...] [--repeats 1]

The comparison trains agents on CartPole-v1, one block of seeds each. What a comparison does once,
imports, random actions and the report, no second core shortens: long trainings show more. As a
calibration, two independent copies of a training beside each other against one alone: what two
cores are worth here, without anything of rlgrad's between them. Ray is started before the clock
runs, as a cluster is; its overhead per task is the time of its comparison beyond that of --jobs 2,
over the tasks.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

ENV = "CartPole-v1"
AGENTS = "actor-critic,relax"  # two blocks, the second some 1.4 times the first


def rlgrad(*arguments: str) -> subprocess.Popen[bytes]:
    """A command, with its output put aside."""
    command = [sys.executable, "-m", "rlgrad", *arguments, "--quiet"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def seconds(processes: Sequence[subprocess.Popen[bytes]], began: float) -> float:
    """From the start of the first to the end of the last; all must end well."""
    for process in processes:
        error = process.communicate()[1]
        if process.returncode:
            sys.exit(error.decode()[-2000:])
    return time.perf_counter() - began


def copies(count: int, size: Sequence[str]) -> float:
    """So many trainings beside each other that know nothing of one another."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        command = ("train", ENV, "--agent", "actor-critic", *size, "--log-dir")
        return seconds([rlgrad(*command, f"{folder}/{i}") for i in range(count)], began)


def compared(agents: str, size: Sequence[str], *how: str) -> float:
    """One comparison."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        command = ("compare", ENV, "--agents", agents, *size, "--log-dir", folder)
        return seconds([rlgrad(*command, *how)], began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60_000, help="env steps per seed")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--agents", default=AGENTS)
    parser.add_argument("--repeats", type=int, default=1, help="the least of so many is taken")
    asked = parser.parse_args()
    size = ("-n", str(asked.steps), "--seeds", f"1000-{999 + asked.seeds}")
    size = (*size, "--eval-episodes", "10")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    cluster = Cluster(True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        ways = {
            "one copy of a training": lambda: copies(1, size),
            "two copies": lambda: copies(2, size),
            "compare --jobs 1": lambda: compared(asked.agents, size, "--jobs", "1"),
            "compare --jobs 2": lambda: compared(asked.agents, size, "--jobs", "2"),
            "compare --ray, 2 CPUs": lambda: compared(asked.agents, size, "--ray", cluster.address),
        }
        found = {name: min(way() for _ in range(asked.repeats)) for name, way in ways.items()}
    finally:
        cluster.shutdown()
    one, two, alone, jobs, ray = found.values()
    for name, wall in found.items():
        print(f"{name:24s}{wall:8.1f} s")
    print(f"two copies: {2 * one / two:.2f} times the throughput of one (the ceiling here)")
    print(f"--jobs 2:   {alone / jobs:.2f} times that of --jobs 1")
    print(f"--ray:      {alone / ray:.2f} times that of --jobs 1, {jobs / ray:.2f} times --jobs 2")
    each = (ray - jobs) / len(asked.agents.split(","))
    print(f"Ray's overhead per task: {each:.1f} s, joining the cluster included")


if __name__ == "__main__":
    main()
