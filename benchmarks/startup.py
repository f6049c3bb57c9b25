"""Start-up and peak memory of the main job, beside bare imports and Stable-Baselines3, one core.

    python benchmarks/startup.py [--repeats 7] [--memory 1]

Start-up: a process of `rlgrad train CartPole-v1 --estimator relax --stop-when-solved` from its
start until its first env step is due, alternately with a process that imports torch and gymnasium;
both end there without tidying up. Memory: peak resident size of the main job, evaluation included,
and of Stable-Baselines3's PPO with the zoo's settings until solved, `--memory` times each.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile

from peers import Job, main_job, pin, ratios, run, sb3, spread, take_turns

ENV, FIRST = "CartPole-v1", 100
BARE = "import os, torch, gymnasium; os._exit(0)"
# The command's own way to its first env step, imports included, and there its end.
READY = """
import os, sys
from rlgrad import cli, train_commands
with train_commands.uncollected():
    from rlgrad import trainer, training
trainer.Trainer.step = lambda self, measure=False: os._exit(0)
cli.main(sys.argv[1:])
"""


def ready(seed: int) -> Job:
    """The main job until its first env step is due."""
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--estimator", "relax", "--stop-when-solved", "--log-dir", folder]
        command = [sys.executable, "-c", READY, "train", ENV, *flags, "--seed", str(seed)]
        return run(command)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--memory", type=int, default=1, help="0: leave it out")
    arguments = parser.parse_args()
    pin()
    contenders = {
        "bare imports": lambda seed: run([sys.executable, "-c", BARE])[0],
        "rlgrad": ready,
    }
    take_turns(contenders, [0])  # the disk's cache
    found = take_turns(contenders, range(FIRST, FIRST + arguments.repeats))
    print("\nseconds from process start to the first env step; bare: to the end of the imports")
    for what in ("wall", "cpu"):
        times = {name: [getattr(job, what) for job in jobs] for name, jobs in found.items()}
        bare = statistics.median(times["bare imports"])
        over = [a - 1.1 * b for a, b in zip(times["rlgrad"], times["bare imports"], strict=True)]
        print(f"  {what:5s}" + "".join(f"{n} {spread(t)}   " for n, t in times.items()), end="")
        print(f"  rlgrad - 1.1 x bare {spread(over)}, wanted at most 0.30 (bare {bare:.2f})")
    if arguments.memory:
        ours, peer = "rlgrad relax", "Stable-Baselines3 PPO"
        contenders = {ours: lambda seed: main_job(ENV, "relax", [seed])}
        contenders[peer] = lambda seed: sb3(ENV, "PPO", seed)
        found = take_turns(contenders, range(FIRST, FIRST + arguments.memory))
        for name, jobs in found.items():
            print(f"  {name:26s} {spread([job.memory for job in jobs], '.0f')} MB at its peak")
        ratios(found, peer, "peak memory", lambda job: job.memory)


if __name__ == "__main__":
    main()
