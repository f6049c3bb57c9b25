"""Kill trainings by SIGKILL at random moments, resume them, and compare with uninterrupted ones.

    python benchmarks/kill_resume.py             # 200 kills, about ten minutes of one core
    python benchmarks/kill_resume.py --kills 8

Trainings are children forked from this process, so that no time goes into imports. They write a
checkpoint after every rollout; half of the kills fall at any moment, half into a write. Compared
are the last checkpoint's parameters, moments, statistics and environments, all rows of
metrics.jsonl and the result, without what a clock says. POSIX only.
"""

from __future__ import annotations

import argparse
import functools
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import rlgrad
from rlgrad import store
from rlgrad.errors import UsageError
from rlgrad.store import Run, find_run, read_run

SMALL = {"num_envs": 2, "num_steps": 16, "hidden": (8,), "max_episode_steps": 40}
OFTEN = {"save_freq": 1, "log_freq": 1, "eval_freq": 250, "eval_episodes": 2, "quiet": True}
CASES = (  # environment, agent, env steps per seed: simulators, Gymnasium, whole episodes
    ("CartPole-v1", "relax", 640),
    ("FrozenLake-v1", "actor-critic", 640),
    ("CartPole-v1", "reinforce-learned", 640),
    ("CliffWalking-v1", "rebar", 640),
)
CLOCKS = ("time/cpu_seconds", "time/wall_seconds", "time/fps")


def train(case: tuple[str, str, int], folder: Path) -> None:
    """Train a case from the beginning."""
    env, agent, total = case
    rlgrad.train(
        env, agent, seeds=[1000, 1001], total_timesteps=total, log_dir=str(folder), **SMALL, **OFTEN
    )


def whole(run: Run) -> tuple[Any, ...]:
    """All that a run leaves, without what a clock says."""
    tensors, counters = store.load_checkpoint(run.checkpoints()[-1])
    rows = [{k: x for k, x in row.items() if k not in CLOCKS} for row in run.metrics()]
    result = run.result()
    for outcome in (*counters["outcomes"], *result["seeds"]):
        outcome["solved_at_seconds"] = outcome["solved_at_seconds"] is not None
    for key in ("run", "cpu_seconds", "wall_seconds"):
        del result[key]
    del counters["seconds"], counters["session"]["record"]
    bits = {k: (str(x.dtype), list(x.shape), x.numpy().tobytes()) for k, x in tensors.items()}
    return bits, counters, rows, result


def difference(one: Run, other: Run) -> str:
    """Which part differs; empty: none."""
    names = ("tensors", "counters", "metrics.jsonl", "result.json")
    pairs = zip(names, whole(one), whole(other), strict=True)
    return ", ".join(name for name, a, b in pairs if a != b)


def writing(folder: Path) -> bool:
    """Whether a file below a folder of runs is half-written."""
    return any(folder.glob("*/*/*/checkpoints/.step-*"))


def child(
    work: Callable[[], Any], seconds: float, ready: Callable[[], bool] = lambda: True
) -> tuple[bool, int]:
    """Do something in a child, and kill it after some time and when ``ready``.

    Returns:
        Whether it was killed, and its status.
    """
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException as error:  # must not return into the parent's code
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        finally:
            os._exit(status)
    end = time.monotonic() + seconds
    while time.monotonic() < end or not ready():
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return False, status
        time.sleep(2e-4)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status), status


def interrupted(
    case: tuple[str, str, int], folder: Path, most: float, kills: int, rng: random.Random
) -> tuple[int, int]:
    """Train a case through at most so many kills to its end; (kills, those inside a write)."""
    killed = inside = 0
    while True:
        try:
            run: Path | None = find_run("latest", folder)
        except UsageError:
            run = None  # killed before there was a card: nothing is lost, it begins anew
        begin = functools.partial(train, case, folder)
        work = begin if run is None else functools.partial(rlgrad.resume, run, quiet=True)
        ready = (lambda: True) if rng.random() < 0.5 else (lambda: writing(folder))
        seconds = rng.uniform(0, most) if killed < kills else 1e9
        was_killed, status = child(work, seconds, ready)
        if not was_killed:
            if status:
                raise RuntimeError(f"{run}: a child ended with status {status}")
            return killed, inside
        killed += 1
        inside += writing(folder)


def main() -> int:
    """Kill, resume, compare, and print what was found; 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1000, help="of the moments")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = random.Random(options.seed)
    killed = inside = runs = differing = unreadable = 0
    place = Path(tempfile.mkdtemp(prefix="kill-resume-"))
    straight, seconds = {}, {}
    for case in CASES:
        began = time.monotonic()
        if child(lambda case=case: train(case, place / "-".join(case[:2])), 1e9)[1]:  # type: ignore[misc]
            raise RuntimeError(f"{case} cannot be trained")
        seconds[case] = time.monotonic() - began
        straight[case] = read_run(find_run("latest", place / "-".join(case[:2])))
    while killed < options.kills:
        case = CASES[runs % len(CASES)]
        folder = place / f"run-{runs}"
        runs += 1
        try:
            most, left = seconds[case], options.kills - killed
            now, within = interrupted(case, folder, most, left, rng)
            killed, inside = killed + now, inside + within
            if found := difference(straight[case], read_run(find_run("latest", folder))):
                differing += 1
                print(f"{case[:2]}, run {runs}: {found} differ; kept in {folder}", file=sys.stderr)
                continue
        except (UsageError, RuntimeError) as error:
            unreadable += 1
            print(f"{case[:2]}, run {runs}: {error}; kept in {folder}", file=sys.stderr)
            if unreadable > 5:
                break
            continue
        shutil.rmtree(folder)
    print(
        f"{killed} kills, {inside} of them inside a write, in {runs} runs: "
        f"{differing} differing, {unreadable} unreadable"
    )
    if differing + unreadable:
        return 1
    shutil.rmtree(place)
    return 0


if __name__ == "__main__":
    sys.exit(main())
