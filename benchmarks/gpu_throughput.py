"""Training throughput on one GPU: CartPole-v1, a 64 x 64 policy, 1k to 64k lanes of one seed.

    python benchmarks/gpu_throughput.py [--agents actor-critic,relax] [--lanes 1024,...,65536]
        [--modes eager,captured,compiled] [--tf32] [--profile] [--out FILE]

An iteration is 32 steps in every lane and the update on them, with the most critic steps that the
card takes. "eager" is ``--capture off``, "captured" what a GPU does by default, "compiled"
``--compile``. Seconds are between synchronisations, the median of five stretches; start-up
(recording, compiling) is apart. Beside each figure stands what a model made before the measurement
says, see MODEL. Rows are written as they come, so that a run that is cut short keeps what it has.
``--smoke`` tries the lines of this script without a GPU and measures nothing of use.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rlgrad.captured.engine import Captured
from rlgrad.cards import resolve
from rlgrad.estimators import arrays
from rlgrad.options import Options
from rlgrad.simulators.base import TorchVectorEnv
from rlgrad.trainer import Trainer

LANES = 1024, 4096, 16384, 65536
STEPS = 32
OUT = Path(__file__).parent / "results" / "gpu_throughput.json"
# Limits for one H200 and relax, million env steps per second at each of LANES, from counts of
# operations (1-2 us each when replayed) and of bytes; memory alone allows about 240. Half to
# seven tenths of them are to be expected; "compiled" is with tf32.
MODEL = {"eager": (2.5, 9, 30, 65), "captured": (8, 26, 58, 84), "compiled": (46, 112, 177, 206)}
GOALS = {("relax", 16384): 50, ("actor-critic", 16384): 100}  # million env steps per second


def trainer(agent: str, lanes: int, device: str, compiled: bool) -> Trainer:
    """One seed, so far from its end that step sizes and critic steps stay what they are."""
    far = 10**12
    flags = {"num_envs": lanes, "num_steps": STEPS, "hidden": (64, 64), "anneal_steps": far}
    card = resolve("CartPole-v1", agent, None, {**flags, "total_timesteps": far})
    return Trainer(card, [1000], Options(device=device, capture="off", compile=compiled))


def started(mode: str, agent: str, lanes: int, device: str) -> tuple[Callable[[], Any], Any]:
    """(one iteration, its trainer) of a mode, ready to be timed."""
    it = trainer(agent, lanes, device, mode == "compiled")
    if mode == "eager":
        return it.step, it
    return Captured(it, recorded=device == "cuda").step, it


def as_on_a_gpu() -> None:
    """Take the lines that a GPU takes also on the CPU: to try them, not for figures of use."""
    arrays.numpy_on_cpu = TorchVectorEnv.numpy_on_cpu = False
    torch.set_num_threads(1)


def wait(device: str) -> None:
    """Until the device has done all that was asked."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(iterate: Callable[[], Any], device: str, stretch: float) -> float:
    """Of one iteration: the median of five stretches."""

    def timed(count: int) -> float:
        wait(device)
        began = time.perf_counter()
        for _ in range(count):
            iterate()
        wait(device)
        return (time.perf_counter() - began) / count

    timed(3)
    count = max(1, int(stretch / timed(2)))
    return statistics.median(timed(count) for _ in range(5))


def profile(iterate: Callable[[], Any]) -> dict[str, Any]:
    """Of one iteration: kernels, the time they take together, and those that take most."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    with profiler(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        iterate()
        torch.cuda.synchronize()
    kernels = [e for e in found.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    totals: dict[str, list[float]] = {}
    for event in kernels:
        totals.setdefault(event.name[:90], []).append(event.device_time)
    most = sorted(totals.items(), key=lambda item: -sum(item[1]))[:12]
    return {
        "kernels": len(kernels),
        "kernel_ms": round(sum(sum(each) for each in totals.values()) / 1e3, 3),
        "most": [[name, len(each), round(sum(each) / 1e3, 3)] for name, each in most],
    }


def row(mode: str, agent: str, lanes: int, device: str, arguments: Any) -> dict[str, Any]:
    """One measurement."""
    began = time.perf_counter()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    iterate, it = started(mode, agent, lanes, device)
    iterate()
    wait(device)
    start = time.perf_counter() - began
    each = seconds(iterate, device, arguments.stretch)
    million = lanes * STEPS / each / 1e6
    found: dict[str, Any] = {"agent": agent, "lanes": lanes, "mode": mode, "tf32": arguments.tf32}
    found |= {"ms": round(each * 1e3, 4), "million_steps_per_second": round(million, 3)}
    found |= {"start_seconds": round(start, 2), "critic_steps": it.critic_steps()}
    if lanes in LANES:
        found["model"] = MODEL[mode][LANES.index(lanes)]
    if device == "cuda":
        found["peak_mib"] = torch.cuda.max_memory_allocated() >> 20
        if arguments.profile:
            found["profile"] = profile(iterate)
    it.close()
    return found


def told(found: dict[str, Any]) -> str:
    """A row as a line of the table."""
    rate, model = found["million_steps_per_second"], found.get("model")
    goal = GOALS.get((found["agent"], found["lanes"]))
    parts = [f"{found['agent']:13s} {found['lanes']:6,d} {found['mode']:9s} {rate:8.2f} M/s"]
    parts += [f"{found['ms']:9.3f} ms  start {found['start_seconds']:5.1f} s"]
    parts += [f"model {model:5.1f} ({rate / model:4.0%} of it)"] if model else []
    parts += [f"goal {goal}: {'met' if rate >= goal else 'missed'}"] if goal else []
    if "profile" in found:
        p = found["profile"]
        parts += [f"{p['kernels']:,} kernels, {p['kernel_ms']:.2f} ms in them"]
    return "  ".join(parts)


def machine(device: str) -> dict[str, Any]:
    """What it was measured on."""
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor()
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    return {"device": name, "cuda": torch.version.cuda, **versions, "steps": STEPS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agents", default="actor-critic,relax")
    parser.add_argument("--lanes", default=",".join(map(str, LANES)))
    parser.add_argument("--modes", default="eager,captured")
    parser.add_argument("--tf32", action="store_true", help="matrix products in tf32")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--stretch", type=float, default=0.5, help="seconds, five per figure")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--smoke", action="store_true", help="no GPU, no figures of use")
    arguments = parser.parse_args()
    device = "cpu" if arguments.smoke else "cuda"
    if not arguments.smoke and not torch.cuda.is_available():
        raise SystemExit("gpu_throughput needs a CUDA device, and torch sees none; nothing is done")
    if arguments.smoke:
        as_on_a_gpu()
    torch.backends.cuda.matmul.allow_tf32 = arguments.tf32
    rows: list[dict[str, Any]] = []
    for agent in arguments.agents.split(","):
        for lanes in map(int, arguments.lanes.split(",")):
            for mode in arguments.modes.split(","):
                try:
                    rows.append(row(mode, agent, lanes, device, arguments))
                    print(told(rows[-1]), flush=True)
                except (RuntimeError, torch.OutOfMemoryError) as error:
                    rows.append({"agent": agent, "lanes": lanes, "mode": mode, "error": str(error)})
                    print(f"{agent} {lanes} {mode}: {error}", flush=True)
                if not arguments.smoke:
                    table = {"machine": machine(device), "model": MODEL, "rows": rows}
                    arguments.out.write_text(json.dumps(table, indent=1) + "\n")
    for agent in arguments.agents.split(","):
        rates = {r["mode"]: r.get("ms") for r in rows if r["agent"] == agent and r["lanes"] == 1024}
        if rates.get("eager") and rates.get("captured"):
            ratio = rates["eager"] / rates["captured"]
            print(f"{agent}: captured / eager at 1,024 lanes {ratio:.2f} (goal 3)")


if __name__ == "__main__":
    main()
