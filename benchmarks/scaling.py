"""What a second process gains for one run, measured; and what 8 GPUs and 2 nodes would, computed.

    python benchmarks/scaling.py            # about a minute and a half on two cores
    python benchmarks/scaling.py --model    # the computed part alone

Measured: env steps per second of one process; of two independent copies of it on two cores, which
is the most that two processes can gain on this machine; of two processes that share its lanes
(strong scaling); and of two that have as many lanes each (weak scaling). Printed are ratios to the
one process.

Computed: an iteration's messages from the bytes that are summed, with latencies of NCCL's own model
of its all-reduce and bandwidths of data sheets, beside seconds of an iteration by docs/gpu.md's
model of a GPU. No number of the second part was measured.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

FIRST_SEED, STEPS, ENDLESS = 1000, 32, 1 << 40
SIZES = {"small": 8, "large": 4096}
# NVIDIA/nccl, src/graph/tuning.cc at 01afd20: microseconds of a tree all-reduce, protocol LL.
BASE, NVLINK, NETWORK, NETWORKED = 4.4, 0.52, 5.0, 1.8
# Data sheets: NVLink 4 (H100, H200), 900 GB/s both ways; InfiniBand NDR, 400 Gb/s for each GPU.
NVLINK_BYTES, NDR_BYTES = 450e9, 50e9
LL = 1 / 4  # of the bandwidth that the LL protocol reaches, by the same file


# ------------------------------------------------------------------------- one of the processes


class Timed:
    """A session's part towards its engine: notes when iterations end, for some seconds.

    Args:
        seconds: after the first few.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self.ends = seconds, list[float]()

    @property
    def stopped(self) -> bool:
        """Whether time is over."""
        return len(self.ends) > 8 and self.ends[-1] - self.ends[4] > self.seconds

    def wants(self, steps: int) -> bool:
        """Nothing is logged."""
        return False

    def after(self) -> None:
        """An iteration has ended."""
        self.ends.append(time.perf_counter())


def child(agent: str, lanes: int, seconds: float) -> None:
    """Train, alone or as torchrun's variables say, and print what an iteration took."""
    import torch

    from rlgrad.allocator import keep_freed_memory
    from rlgrad.cards import resolve
    from rlgrad.options import Options
    from rlgrad.ranks.joining import join, led
    from rlgrad.ranks.leading import Following
    from rlgrad.trainer import Trainer

    torch.set_num_threads(1)
    keep_freed_memory()  # as the command does
    options = Options(device="cpu", quiet=True)
    flags = {"num_envs": lanes, "num_steps": STEPS, "total_timesteps": ENDLESS}
    ranks = join(options)
    trainer = Trainer(resolve("CartPole-v1", agent, None, flags), [FIRST_SEED], options, ranks)
    if not ranks.leads:
        about: Any = SimpleNamespace(config=trainer.config)
        Following(trainer, about, ranks, ENDLESS).go()
        return
    watch, engine = Timed(seconds), led(trainer, ranks)
    group = getattr(ranks, "group", None)
    engine.run(watch)
    each = [b - a for a, b in zip(watch.ends[4:], watch.ends[5:], strict=False)]
    found = {"iteration": statistics.median(each), "messages": 0.0, "waiting": 0.0}
    if group is not None:
        found["messages"] = group.messages / len(watch.ends)
        found["waiting"] = group.seconds / (watch.ends[-1] - watch.ends[0])
    engine.close()
    print(json.dumps(found), flush=True)


# ------------------------------------------------------------------------------ measurements


def _cores() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0, 0]


def _port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def measured(
    agent: str, lanes: int, seconds: float, copies: int, shared: bool
) -> list[dict[str, float]]:
    """What ``child`` prints, of processes on a core each.

    Args:
        agent: card.
        lanes: of each process alone, or of all that share them.
        seconds: of training.
        copies: how many processes.
        shared: whether they are one run.
    """
    root = str(Path(__file__).resolve().parent.parent)
    base = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    if sys.platform == "linux":
        base.setdefault("GLOO_SOCKET_IFNAME", "lo")
    words = [sys.executable, __file__, "--child", agent, str(lanes), str(seconds)]
    port, cores, started = _port(), _cores(), []
    for rank in range(copies):
        own = {"RANK": rank, "WORLD_SIZE": copies, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": copies,
               "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} if shared else {}  # fmt: skip
        variables = {**base, **{name: str(value) for name, value in own.items()}}
        process = subprocess.Popen(words, env=variables, stdout=subprocess.PIPE, text=True)
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(process.pid, {cores[rank % len(cores)]})
        started.append(process)
    printed = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit("a process failed; see above")
    return [json.loads(text) for text in printed if text.strip()]


def scaling(agent: str, name: str, seconds: float) -> None:
    """Print the table of one size."""
    lanes = SIZES[name]
    batch = lanes * STEPS
    (one,) = measured(agent, lanes, seconds, 1, False)
    alone = batch / one["iteration"]
    copies = sum(batch / each["iteration"] for each in measured(agent, lanes, seconds, 2, False))
    (strong,) = measured(agent, lanes, seconds, 2, True)
    (weak,) = measured(agent, 2 * lanes, seconds, 2, True)
    ceiling = copies / alone
    print(f"\n{agent}, {name}: {lanes:,} lanes of CartPole-v1 x {STEPS} steps; one process = 1")
    print(
        f"{'':34s}{'steps/s':>9s}{'a core':>9s}{'of ceiling':>12s}{'messages':>10s}{'in them':>9s}"
    )
    print(f"{'one process':34s}{1:9.2f}{1:9.2f}")
    print(f"{'two copies, a run each (ceiling)':34s}{ceiling:9.2f}{ceiling / 2:9.2f}{1:12.2f}")
    for title, found, size in (("two processes, its lanes shared", strong, batch),
                               ("two processes, its lanes each", weak, 2 * batch)):  # fmt: skip
        ratio = size / found["iteration"] / alone
        print(
            f"{title:34s}{ratio:9.2f}{ratio / 2:9.2f}{ratio / ceiling:12.2f}"
            f"{found['messages']:10.1f}{found['waiting']:9.0%}"
        )
    print(f"(one process: {alone:,.0f} steps/s, {1e3 * one['iteration']:,.1f} ms an iteration)")


# ------------------------------------------------------------------------------------- model


def all_reduce(size: float, gpus: int, nodes: int) -> float:
    """Seconds of an all-reduce of so many bytes, by NCCL's model of a tree with protocol LL.

    Args:
        size: bytes.
        gpus: all together.
        nodes: with the same number each, one InfiniBand port for each GPU.
    """
    within = NVLINK * (NETWORKED if nodes > 1 else 1)
    latency = BASE + 2 * ((gpus // nodes - 1) * within + math.log2(nodes) * NETWORK)
    bandwidth = LL * (NVLINK_BYTES if nodes == 1 else NDR_BYTES)
    return latency * 1e-6 + 2 * (gpus - 1) / gpus * size / bandwidth


def model(agent: str) -> None:
    """Print what more GPUs would gain, computed."""
    from rlgrad.cards import resolve
    from rlgrad.options import Options
    from rlgrad.preflight import Work
    from rlgrad.trainer import Trainer

    flags = {"num_envs": 8, "num_steps": STEPS}
    config = resolve("CartPole-v1", agent, None, flags)
    print("\nComputed, not measured: bytes by this program, latencies and bandwidths as published")
    print(f"{'hidden':>10s}{'lanes':>9s}{'GPUs':>6s}{'nodes':>6s}{'bytes':>11s}{'messages':>10s}"
          f"{'all-reduce':>12s}{'of an iteration':>17s}{'gain':>7s}")  # fmt: skip
    for hidden in ((32, 32), (512, 512)):
        name = "x".join(map(str, hidden))
        wide = replace(config, config=replace(config.config, hidden=hidden))
        trainer = Trainer(wide, [FIRST_SEED], Options(device="cpu", quiet=True))
        learner, critic = trainer.learner, trainer.config.critic_steps
        gradient = sum(x.numel() for x in learner.parameters()) * 4
        weights = max(x.numel() for x in learner.parameters())
        trainer.close()
        for lanes in (4096, 65536):
            one = Work(1, STEPS, lanes, weights).seconds()[1] - 5.0
            for gpus, nodes in ((8, 1), (16, 2)):
                sums = all_reduce(gradient, gpus, nodes) + (critic - 1) * all_reduce(
                    gradient / 2, gpus, nodes
                )
                # What is counted: rewards and flags of all lanes, to every GPU.
                counted = all_reduce(7 * STEPS * lanes, gpus, nodes) / 2
                share = Work(1, STEPS, lanes // gpus, weights).seconds()[1] - 5.0
                spent = sums + counted
                print(
                    f"{name:>10s}{lanes:9,d}{gpus:6d}{nodes:6d}{gradient:11,d}"
                    f"{critic + 1:10d}{1e6 * spent:9.0f} us{spent / (share + spent):17.0%}"
                    f"{one / (share + spent):7.1f}"
                )
    print("gain: seconds of an iteration on one GPU over those of all, the same lanes in all")


def main() -> None:
    """Run what the flags say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agent", default="actor-critic")
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--seconds", type=float, default=5.0, help="of training in each process")
    parser.add_argument("--model", action="store_true", help="the computed part alone")
    parser.add_argument("--child", nargs=3, metavar=("AGENT", "LANES", "SECONDS"))
    arguments = parser.parse_args()
    if arguments.child:
        agent, lanes, seconds = arguments.child
        child(agent, int(lanes), float(seconds))
        return
    if not arguments.model:
        cores = _cores()
        if len(cores) < 2:
            print(f"only core {cores[0]} may be used: two processes share it, and gain nothing")
        for name in arguments.sizes.split(","):
            scaling(arguments.agent, name, arguments.seconds)
    model(arguments.agent)


if __name__ == "__main__":
    main()
