"""How the cost of an iteration grows: CPU-time and memory against seeds, lanes, steps and sizes.

    python benchmarks/growth.py [--agents actor-critic,relax,relax-network] [--repeats 5]

An iteration is a rollout and the update on it, on one core: of CartPole-v1, 1 seed x 8 environments
x 32 steps with two hidden layers of 32, and one of these numbers changed at a time. Actions are
those of a probe, DialProbe, with that many of them. Every point is a process of its own, forked
from one that has only imported; its memory is the peak of what it took beyond that. Times are the
least of the repeats.

The exponent between two points is log(ratio of cost) / log(ratio of size): 1 is linear, 0 a cost
that is all dispatch. For the width the size is the number of weights of the policy, since a layer
of twice the width has four times the weights. Printed are the exponents of every stretch, and the
largest beside the axis. The last lines are the share of a run that metrics and the logger take in
runs of the cards as they are.

Writes benchmarks/results/growth.json and docs/images/growth.png.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import tempfile
import time
import traceback
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

import rlgrad
from rlgrad import diagnostics
from rlgrad.allocator import keep_freed_memory
from rlgrad.cards import resolve
from rlgrad.drawing import COLOURS, blank, png, short, styled
from rlgrad.options import Options
from rlgrad.reporting import Reporter
from rlgrad.simulators.probes import DialProbe
from rlgrad.trainer import Trainer

ROOT = Path(__file__).parent.parent
BASE = {"seeds": 1, "num_envs": 8, "num_steps": 32, "hidden": 32, "actions": 0}
AXES = {  # field: (title, points)
    "seeds": ("seeds", (1, 4, 16, 64, 256)),
    "num_envs": ("environments per seed", (8, 32, 128, 512, 2048)),
    "num_steps": ("steps of a rollout", (32, 128, 512, 2048)),
    "hidden": ("width of a hidden layer", (32, 64, 128, 256, 512)),
    "actions": ("actions", (2, 4, 8, 16, 32, 64, 128)),
}
FIRST_SEED, FAR = 1000, 1 << 40
LEAST_MIB = 4.0  # below, memory is the granularity of the allocator, and has no exponent


def trainer(agent: str, point: dict[str, int]) -> Trainer:
    """An agent whose step sizes and critic steps stay what they are at the start."""
    env = "CartPole-v1"
    if point["actions"]:
        DialProbe.positions, env = point["actions"], "rlgrad/DialProbe-v0"
    flags = {"num_envs": point["num_envs"], "num_steps": point["num_steps"], "critic_steps": 4}
    flags |= {"hidden": (point["hidden"],) * 2, "anneal_steps": FAR, "total_timesteps": FAR}
    seeds = range(FIRST_SEED, FIRST_SEED + point["seeds"])
    return Trainer(resolve(env, agent, None, flags), seeds, Options(device="cpu"))


def weights(point: dict[str, int]) -> int:
    """Of the policy on CartPole-v1."""
    h = point["hidden"]
    return 4 * h + h + h * h + h + 2 * h + 2


def resident() -> float:
    """Peak MiB of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def cost(agent: str, point: dict[str, int], repeats: int, spend: float) -> dict[str, float]:
    """CPU-milliseconds of an iteration, and MiB; to be called in a process of its own."""
    before, it = resident(), trainer(agent, point)

    def timed(count: int) -> float:
        began = time.process_time()
        for _ in range(count):
            it.step()
        return (time.process_time() - began) / count

    timed(2)
    count = max(1, int(spend / timed(1)))
    least = min(timed(count) for _ in range(repeats))
    return {"ms": 1e3 * least, "mib": resident() - before}


def apart(work: Callable[[], Any]) -> Any:
    """What a function returns in a forked process."""
    into, out = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(out, json.dumps(work()).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(out)
    with os.fdopen(into) as answer:
        said = answer.read()
    os.waitpid(child, 0)
    if not said:
        raise SystemExit("a measurement failed; its error is above")
    return json.loads(said)


def exponents(sizes: list[float], costs: list[float], least: float = 0.0) -> list[float]:
    """Of every stretch between two points that cost enough to tell."""
    pairs = zip(pairwise(sizes), pairwise(costs), strict=True)
    return [math.log(d / c) / math.log(b / a) for (a, b), (c, d) in pairs if c > least]


def told(agent: str, axis: str, rows: list[dict[str, float]]) -> None:
    """An axis as lines of the table."""
    print(f"\n{agent}, {AXES[axis][0]}")
    for key, unit, least in (("ms", "CPU-ms", 0.0), ("mib", "MiB", LEAST_MIB)):
        costs = [row[key] for row in rows]
        found = exponents([row["size"] for row in rows], costs, least)
        cells = "".join(f"{each:10.4g}" for each in costs)
        steep = " ".join(f"{each:.2f}" for each in found)
        print(f"  {unit:7s}{cells}   exponents {steep}   largest {max(found, default=0):.2f}")


def drawn(found: dict[str, dict[str, list[dict[str, float]]]]) -> bytes:
    """Small multiples: time above, memory below, a column per axis; the guide has slope 1."""
    with styled():
        figure, panels = blank(4.6, len(AXES), 2, sharey="row")
        figure.set_size_inches(12.5, 4.6)
        for column, (axis, (title, points)) in enumerate(AXES.items()):
            for row, key in enumerate(("ms", "mib")):
                panel = panels[row][column]
                for (agent, axes), colour in zip(found.items(), COLOURS, strict=False):
                    costs = [each[key] for each in axes[axis]]
                    panel.plot(points, costs, "o-", color=colour, ms=4, label=agent)
                sizes, top = [each["size"] for each in axes[axis]], costs[-1]
                guide = [top * size / sizes[-1] for size in sizes]
                panel.plot(points, guide, ":", color="#888888", lw=1.2, label="linear")
                panel.set(xscale="log", yscale="log", xticks=points[:: len(points) - 1])
                panel.set_xticklabels([f"{x:,}" for x in points[:: len(points) - 1]])
                panel.minorticks_off()
                panel.yaxis.set_major_formatter(lambda y, _: short(y))
            panels[0][column].set_title(title)
        for (left, *_), least in zip(panels, (5, 20), strict=True):
            left.set_ylim(bottom=least)
        panels[0][0].set_ylabel("CPU-ms of an iteration")
        panels[1][0].set_ylabel("peak MiB")
        panels[0][0].legend(fontsize=8, frameon=False)
        return png(figure)


def logging(agent: str, seeds: int) -> dict[str, float]:
    """CPU-seconds of a run: of training, and of metrics and logger in and beside it."""
    spent = {"metrics": 0.0, "logger": 0.0}

    def clock(owner: Any, name: str, kind: str) -> None:
        function = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.process_time()
            result = function(*args, **kwargs)
            spent[kind] += time.process_time() - began
            return result

        setattr(owner, name, timed)

    clock(diagnostics, "update_numbers", "metrics")
    clock(diagnostics, "critic_numbers", "metrics")
    clock(Reporter, "write", "logger")
    with tempfile.TemporaryDirectory() as folder:
        run = rlgrad.train(
            "CartPole-v1", agent, seeds=range(FIRST_SEED, FIRST_SEED + seeds), eval_episodes=1,
            quiet=True, log_dir=folder,
        )  # fmt: skip
        return {**spent, "training": run.result()["cpu_seconds"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agents", default="actor-critic,relax,relax-network")
    parser.add_argument("--axes", default=",".join(AXES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--spend", type=float, default=0.2, help="CPU-seconds of a repeat")
    arguments = parser.parse_args()
    agents, axes = arguments.agents.split(","), arguments.axes.split(",")
    torch.set_num_threads(1)
    keep_freed_memory()  # as the command does
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    found: dict[str, dict[str, list[dict[str, float]]]] = {agent: {} for agent in agents}
    for agent in agents:
        for axis in axes:
            rows = found[agent][axis] = []
            for value in AXES[axis][1]:
                point = {**BASE, axis: value}
                size = weights(point) if axis == "hidden" else value
                spend = arguments.repeats, arguments.spend
                measured = apart(lambda: cost(agent, point, *spend))  # noqa: B023
                rows.append({"value": value, "size": size, **measured})
            told(agent, axis, rows)
    shares = {}
    for agent in agents:
        for seeds in (1, 20):
            each = apart(lambda: logging(agent, seeds))  # noqa: B023
            run = each["training"] + each["logger"]
            shares[f"{agent}, {seeds} seeds"] = each
            parts = [f"{name} {each[name] / run:.2%}" for name in ("metrics", "logger")]
            whole = (each["metrics"] + each["logger"]) / run
            print(f"\n{agent}, {seeds} seeds: {', '.join(parts)}, together {whole:.2%} of a run")
    if axes == list(AXES):
        table = {"torch": torch.__version__, "base": BASE, "axes": found, "logging": shares}
        (ROOT / "benchmarks/results/growth.json").write_text(json.dumps(table, indent=1) + "\n")
        (ROOT / "docs/images/growth.png").write_bytes(drawn(found))


if __name__ == "__main__":
    main()
