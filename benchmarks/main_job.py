"""The main job as a newcomer meets it: whole process, wall-clock and peak memory, on one core.

    python benchmarks/main_job.py [--repeats 5]

Runs ``rlgrad train CartPole-v1 --estimator relax --stop-when-solved`` from process start to its
summary, alternately with a process that does no more than import torch, gymnasium and
Stable-Baselines3, so that the ratio holds on a noisy machine.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile

from peers import pin, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=100)
    arguments = parser.parse_args()
    pin()
    imports = [sys.executable, "-c", "import torch, gymnasium, stable_baselines3"]
    with tempfile.TemporaryDirectory() as folder:
        train = [sys.executable, "-m", "rlgrad", "train", "CartPole-v1", "--estimator", "relax"]
        train += ["--stop-when-solved", "--seed", str(arguments.seed), "--log-dir", folder]
        pairs = [(run(train)[0], run(imports)[0]) for _ in range(arguments.repeats)]
    for i, name in enumerate(("rlgrad train ... --stop-when-solved", "bare imports of the peers")):
        wall = sorted(pair[i].wall for pair in pairs)
        memory = statistics.median(pair[i].memory for pair in pairs)
        print(
            f"{name:38s} {statistics.median(wall):6.2f} s ({wall[0]:.2f}-{wall[-1]:.2f})"
            f"  {memory:5.0f} MB"
        )
    ratio = statistics.median(pair[0].wall / pair[1].wall for pair in pairs)
    print(f"{'ratio of wall-clock, pair by pair':38s} {ratio:6.2f}")


if __name__ == "__main__":
    main()
