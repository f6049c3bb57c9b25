"""Seeds of CartPole-v1 solved per second on one GPU, beside PureJaxRL's vmapped PPO on the same.

    python benchmarks/gpu_seeds.py --purejaxrl CHECKOUT [--seeds 64,512] [--repeats 3]
        [--agents actor-critic,relax] [--jax-python PYTHON] [--device cuda] [--out FILE]

The two take turns on the same seeds. rlgrad trains all of them as one captured program, with the
cards' settings; PureJaxRL's PPO, a process of its own, by `jax.vmap`, with the settings of its
repository, of which the 4 epochs over every rollout matter most (rlgrad takes one). Solved is the
same for both: the mean return of the last 100 training episodes reaches 475 at the end of an
update. Seconds are of training alone, from the first step until the last seed is solved, or its
budget spent (rlgrad 100,000 env steps, PureJaxRL 500,000); a rate is solved seeds over them.
What comes before, recording here and compiling there, stands apart.

Needs a GPU for torch and for JAX, both without preallocated memory. For rlgrad: the wheels
gymnasium, farama-notifications and tomli-w, beside torch, numpy, jaxtyping, safetensors and tqdm;
for PureJaxRL: a checkout, and jax with CUDA, flax, optax, distrax (with tfp-nightly, dm-tree,
decorator and gast) and gymnax below 1 (with seaborn). Without the peer rlgrad's part is still
measured. ``--device cpu`` tries the lines of this script without a GPU and measures nothing of use.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from gpu_throughput import as_on_a_gpu, machine, wait
from peers import Jax, Job, pin, spread, take_turns

from rlgrad.captured.engine import Captured
from rlgrad.cards import resolve
from rlgrad.options import Options
from rlgrad.trainer import Trainer

FIRST, PEER = 100, "PureJaxRL PPO, 4 epochs"
OUT = Path(__file__).parent / "results" / "gpu_seeds.json"
GOAL = 3  # times as many seeds per second


class Unwatched:
    """Nothing is logged, saved or evaluated."""

    stopped = False

    def wants(self, steps: int) -> bool:
        """Nothing is."""
        return False

    def after(self) -> None:
        """Nothing is due."""


def ours(agent: str, seeds: Sequence[int], device: str) -> Job:
    """All seeds as one captured program until the last is solved."""
    began = time.perf_counter()
    options = Options(device=device, capture="off", stop_when_solved=True)
    it = Trainer(resolve("CartPole-v1", agent), seeds, options)
    engine = Captured(it, recorded=device == "cuda")
    wait(device)
    start = time.perf_counter() - began
    engine.run(Unwatched())
    spent = engine.seconds()
    steps = tuple(outcome.solved_at_step for outcome in engine.outcomes)
    engine.close()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    own = spent.cpu, spent.wall
    return Job(time.perf_counter() - began, time.process_time(), memory, steps, *own, 0.0, start)


def rate(job: Job) -> float:
    """Seeds solved per second of training."""
    return sum(step is not None for step in job.steps) / job.training_wall


def told(found: dict[str, list[Job]]) -> None:
    """The table of one number of seeds."""
    print(f"{'':26s}{'seeds per s':>22s}{'training s':>24s}{'before s':>24s}  solved  env steps")
    for name, jobs in found.items():
        columns = [rate(job) for job in jobs], [job.training_wall for job in jobs]
        cells = f"{spread(columns[0]):>22s}{spread(columns[1]):>24s}"
        cells += f"{spread([job.compiling_wall for job in jobs]):>24s}"
        steps = [step for job in jobs for step in job.steps]
        solved = [step for step in steps if step is not None]
        median = f"{statistics.median(solved):,.0f}" if solved else "-"
        print(f"{name:26s}{cells}  {len(solved)}/{len(steps)}  {median}")
    for name in (name for name in found if name != PEER and PEER in found):
        turns = list(zip(found[name], found[PEER], strict=True))
        pairs = [rate(a) / rate(b) for a, b in turns if rate(b)]
        if len(pairs) < len(turns):
            print(
                f"{name}: no ratio, since {PEER} solved no seed in {len(turns) - len(pairs)} turns"
            )
            continue
        met = "met" if statistics.median(pairs) >= GOAL else "missed"
        print(f"{name}: {spread(pairs, '.1f')} times as many seeds per second (goal {GOAL}: {met})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="64,512", help="numbers of seeds, trained together")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--agents", default="actor-critic,relax")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--peer-budget", type=int, help="env steps of PureJaxRL, to try this out")
    Jax.add_flags(parser)
    arguments = parser.parse_args()
    device, jax = arguments.device, Jax.of(arguments)
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("gpu_seeds needs a CUDA device, and torch sees none; nothing is done")
    if device == "cpu":
        as_on_a_gpu()
        pin()  # JAX has been seen to wait for ever on two cores
    os.environ.update(XLA_PYTHON_CLIENT_PREALLOCATE="false", JAX_PLATFORMS=device)
    peer = "jax" in arguments.peers and jax.has("purejaxrl")
    budget = ["--budget", str(arguments.peer_budget)] if arguments.peer_budget else []
    rows: dict[str, Any] = {}
    for S in map(int, arguments.seeds.split(",")):

        def seeds(turn: int, S: int = S) -> range:
            return range(FIRST + turn * S, FIRST + (turn + 1) * S)

        contenders = {
            agent: lambda turn, agent=agent: ours(agent, seeds(turn), device)
            for agent in arguments.agents.split(",")
        }
        if peer:
            contenders[PEER] = lambda turn: jax.job("purejaxrl", seeds(turn), *budget)
        found = take_turns(contenders, range(arguments.repeats))
        print(f"\nCartPole-v1, {S} seeds at once on {machine(device)['device'] or device}")
        told(found)
        rows[str(S)] = {name: [asdict(job) for job in jobs] for name, jobs in found.items()}
        if device == "cuda":
            table = {"machine": machine(device), "seeds": rows}
            arguments.out.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
