"""Seconds that `rlgrad compare` takes for six agents and 20 seeds, beside one peer.

    python benchmarks/compare.py              # about three minutes on two cores
    python benchmarks/compare.py --seeds 5 --peer-seeds 1

The whole command, from process start to the written report, nothing reused, on as many processes
as there are cores; and in the same run the CPU-seconds of Stable-Baselines3's A2C (zoo settings)
for a few seeds of as many env steps, to whose cost for as many agents and seeds the ratio is taken.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

AGENTS = "reinforce,reinforce-constant,reinforce-learned,actor-critic,rebar,relax"


def command(folder: str, agents: str, seeds: str, steps: int) -> tuple[float, float, dict]:
    """(wall seconds, CPU-seconds of all processes, result) of a comparison."""
    before = os.times()
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "rlgrad", "compare", "CartPole-v1", "--agents", agents,
         "--seeds", seeds, "-n", str(steps), "--log-dir", folder, "--json"],
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    wall, after = time.perf_counter() - started, os.times()
    cpu = after.children_user + after.children_system
    return (
        wall,
        cpu - before.children_user - before.children_system,
        json.loads(done.stdout),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--peer-seeds", type=int, default=2)
    arguments = parser.parse_args()
    agents, seeds = len(AGENTS.split(",")), arguments.seeds
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu, found = command(folder, AGENTS, f"0-{seeds - 1}", arguments.steps)
        peers = f"0-{arguments.peer_seeds - 1}"
        _, _, peer = command(folder, "sb3-a2c", peers, arguments.steps)
    print(
        f"{agents} agents x {seeds} seeds x {arguments.steps:,} env steps, {os.cpu_count()} cores:"
    )
    print(f"  {wall:.1f} s from start to report, {cpu:.1f} CPU-seconds")
    for row in found["summaries"]:
        print(f"  {row['agent']:20s} {row['solved']}/{row['seeds']} solved, "
              f"{row['cpu_seconds']:.3f} CPU-s per seed")  # fmt: skip
    each = peer["summaries"][0]["cpu_seconds"]
    print(f"  sb3-a2c {each:.1f} CPU-s per seed; {agents} x {seeds} such seeds to the above: "
          f"{each * agents * seeds / cpu:.1f} times")  # fmt: skip


if __name__ == "__main__":
    main()
