"""Whole processes that train until an environment is solved: rlgrad's and its peers', one core.

What the scripts that compare with peers share: `one_learner.py`, `many_seeds.py`, `acrobot.py` and
`startup.py`. A peer runs in a process of its own (`peer_sb3.py`, `peer_jax.py`) that imports
nothing of rlgrad and prints what it did; wall-clock, CPU-seconds and memory are measured from
outside, from the process's start to its end.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

HERE = Path(__file__).parent
JAX_NEEDS = {"rejax": "rejax", "purejaxrl": "jax, flax, optax, distrax, gymnax"}
SOLVED_AT = {"CartPole-v1": 475.0, "Acrobot-v1": -100.0}


@dataclass(frozen=True)
class Job:
    """A process, as it was seen from outside, and what it said of itself."""

    wall: float
    """Seconds from its start to its end."""
    cpu: float
    """CPU-seconds, of all its threads."""
    memory: float
    """Peak resident MB."""
    steps: tuple[int | None, ...] = ()
    """Env steps at which each seed counted as solved; None: it did not within its budget."""
    training: float = 0.0
    """CPU-seconds of training alone: no imports, set-up, compiling, logging or checkpoints."""
    training_wall: float = 0.0
    """Seconds of the same."""
    compiling: float = 0.0
    """CPU-seconds of compiling."""
    compiling_wall: float = 0.0
    """Seconds of the same, or of what else comes between imports and training."""


def pin() -> None:
    """Keep this process and those that it starts on one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def run(command: Sequence[str]) -> tuple[Job, str]:
    """A command from start to end, and what it printed."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=errors, text=True)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0), errors.seek(0)
        if status:
            raise SystemExit(f"{' '.join(command)} failed:\n{errors.read()[-2000:]}")
        return Job(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024), out.read()


# The command itself, which then tells when the last seed's training was over.
OVER = """
import json, sys, time
from rlgrad import cli, train_commands
with train_commands.uncollected():
    from rlgrad import session
finish = session.Session._finish
moment = []
def noted(self):
    moment.extend([time.time(), time.process_time()])
    finish(self)
session.Session._finish = noted
status = cli.main(sys.argv[1:])
print(json.dumps(moment))
sys.exit(status)
"""


def rlgrad(
    env: str, agent: str, seeds: Sequence[int], *flags: str, begin: Sequence[str] = ("-m", "rlgrad")
) -> tuple[Job, list[str]]:
    """`rlgrad train ... --stop-when-solved` as a user types it, and the lines that it printed.

    Args:
        env: id.
        agent: of rlgrad.
        seeds: trained together.
        flags: further ones.
        begin: what the interpreter runs.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *begin, "train", env, "--agent", agent]
        command += ["--stop-when-solved", "--json", "--log-dir", folder, *flags]
        command += ["--seeds", ",".join(f"{seed}-{seed}" for seed in seeds)]  # 100: a hundred seeds
        job, said = run(command)
    lines = said.splitlines()
    result = json.loads(next(line for line in lines if line.startswith("{")))
    steps = tuple(seed["solved_at_step"] for seed in result["seeds"])
    seen = job.wall, job.cpu, job.memory
    return Job(*seen, steps, result["cpu_seconds"], result["wall_seconds"]), lines


def main_job(env: str, agent: str, seeds: Sequence[int]) -> Job:
    """The whole process, the last evaluation included."""
    return rlgrad(env, agent, seeds)[0]


def until_solved(env: str, agent: str, seeds: Sequence[int]) -> Job:
    """The same up to the last seed's training, as peers are measured: they evaluate nothing."""
    started = time.time()
    job, lines = rlgrad(env, agent, seeds, "--eval-episodes", "1", begin=("-c", OVER))
    wall, cpu = json.loads(lines[-1])
    return replace(job, wall=wall - started, cpu=cpu)


def peer(command: Sequence[str]) -> Job:
    """A peer's process; seconds after its last seed was solved are taken off."""
    job, said = run(command)
    told = json.loads(said.splitlines()[-1])
    seen = job.wall - told["unused_wall"], job.cpu - told["unused"], job.memory
    names = "training", "training_wall", "compiling", "compiling_wall"
    return Job(*seen, tuple(told["steps"]), *(told.get(name, 0.0) for name in names))


def sb3(env: str, algorithm: str, seed: int) -> Job:
    """Stable-Baselines3's own `learn` until solved, with the zoo's settings."""
    command = [sys.executable, str(HERE / "peer_sb3.py"), algorithm, env, str(SOLVED_AT[env])]
    return peer([*command, "--seed", str(seed)])


@dataclass(frozen=True)
class Jax:
    """Peers in JAX on gymnax's CartPole-v1: where they are."""

    python: str
    purejaxrl: str | None

    @staticmethod
    def add_flags(parser: argparse.ArgumentParser) -> None:
        """Flags of scripts that run peers in JAX, too."""
        parser.add_argument("--peers", default="sb3,jax", help="which are trained: sb3, jax")
        parser.add_argument("--jax-python", default=sys.executable, help="with rejax installed")
        parser.add_argument("--purejaxrl", help="a checkout of luchris429/purejaxrl")

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Jax:
        """What the flags say."""
        return cls(arguments.jax_python, arguments.purejaxrl)

    def has(self, name: str) -> bool:
        """Whether a peer is here; says in a line why not."""
        why = ""
        done = subprocess.run([self.python, "-c", f"import {JAX_NEEDS[name]}"], capture_output=True)
        if done.returncode:
            why = f"{self.python} cannot import all of {JAX_NEEDS[name]}; install rlgrad[bench], "
            why += "or name another Python by --jax-python"
        elif name == "purejaxrl" and not Path(str(self.purejaxrl), "purejaxrl/ppo.py").exists():
            why = "name a checkout of luchris429/purejaxrl by --purejaxrl"
        if why:
            print(f"{name} is left out: {why}")
        return not why

    def names(self) -> list[str]:
        """Those that are here; says of the others why not."""
        return [name for name in JAX_NEEDS if self.has(name)]

    def job(self, name: str, seeds: Sequence[int], *flags: str) -> Job:
        """One of them until all seeds are solved; several seeds are vmapped."""
        command = [self.python, str(HERE / "peer_jax.py"), name, str(SOLVED_AT["CartPole-v1"])]
        command += ["--seeds", ",".join(map(str, seeds))]
        return peer([*command, "--purejaxrl", str(self.purejaxrl), *flags])


def take_turns(
    contenders: dict[str, Callable[[int], Job]], turns: Iterable[int]
) -> dict[str, list[Job]]:
    """Every contender once per turn, so that a machine that slows down slows all."""
    found: dict[str, list[Job]] = {name: [] for name in contenders}
    for turn in turns:
        for name, start in contenders.items():
            found[name].append(start(turn))
            wall = found[name][-1].wall
            print(f"  turn {turn}: {name} {wall:.1f} s", file=sys.stderr, flush=True)
    return found


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Median with least and most."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):{form}} ({low:{form}}-{high:{form}})"


def table(found: dict[str, list[Job]], seeds: int = 1) -> None:
    """Seconds per seed, steps and memory: medians with least and most."""
    heads = ("process wall s", "process CPU-s", "of compiling", "of training")
    print(
        f"{'':26s}" + "".join(f"{head:>21s}" for head in heads) + f"{'MB':>7s}  solved  env steps"
    )
    for name, jobs in found.items():
        fields = [
            [getattr(job, field) / seeds for job in jobs]
            for field in ("wall", "cpu", "compiling", "training")
        ]
        cells = "".join(f"{spread(each):>21s}" for each in fields)
        steps = [step for job in jobs for step in job.steps]
        solved = [step for step in steps if step is not None]
        count = f"{len(solved)}/{len(steps)}"
        memory = statistics.median(job.memory for job in jobs)
        ends = spread(solved, ",.0f") if solved else "-"
        print(f"{name:26s}{cells}{memory:7.0f}{count:>8s}  {ends}")


def ratios(
    found: dict[str, list[Job]], ours: str, title: str, of: Callable[[Job], float]
) -> dict[str, float]:
    """Print, turn by turn, how many times ours the others take."""
    print(f"{title}, times that of {ours}:")
    medians = {}
    for name in (name for name in found if name != ours):
        pairs = [of(a) / of(b) for a, b in zip(found[name], found[ours], strict=True)]
        medians[name] = statistics.median(pairs)
        print(f"  {name:26s} {spread(pairs, '.1f')}")
    return medians
