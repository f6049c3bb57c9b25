"""What one differentiable estimate costs, beside plain reinforce, on one core.

    python benchmarks/estimate_cost.py [--estimators relax,rebar] [--repeats 200]

Timed is ``estimate(estimator, logits, f).sum().backward()`` with 128 rows of D = 200 factors of
A = 2 categories in float32: drawing the noise and the choice, f there (a squared distance of the
weighted choice to a target, far cheaper than a network), the estimate at the logits, and the
gradient with respect to the logits. Training the control variate is not in it, nor in reinforce.
Each repeat times the estimator between two runs of reinforce, so that a machine that slows down
slows both; printed is the median of the repeats' ratios with a 95 % bootstrap interval.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import numpy as np
import torch

from rlgrad.estimators import Estimator, build, estimate

BATCH, FACTORS, CATEGORIES = 128, 200, 2
TARGET = 0.499


def f(choice: torch.Tensor) -> torch.Tensor:
    """Mean of (b_d - 0.499)^2 over the factors: ``[*batch, D, A]`` -> ``[*batch]``."""
    return (choice[..., 1] - TARGET).square().mean(-1)


def seconds(estimator: Estimator, logits: torch.Tensor, calls: int) -> float:
    """Wall-clock of one estimate with its backward pass, averaged over some calls."""
    started = time.perf_counter()
    for _ in range(calls):
        logits.grad = None
        estimate(estimator, logits, f).sum().backward()
    return (time.perf_counter() - started) / calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--estimators", default="relax,rebar,learned")
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--calls", type=int, default=5, help="estimates per timing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    logits = torch.randn(BATCH, FACTORS, CATEGORIES, requires_grad=True)
    plain = build("reinforce", FACTORS, CATEGORIES)
    for name in arguments.estimators.split(","):
        other = build(name, FACTORS, CATEGORIES)
        seconds(other, logits, arguments.calls)  # warm up
        ratios, times = [], []
        for _ in range(arguments.repeats):
            before, own, after = (
                seconds(each, logits, arguments.calls) for each in (plain, other, plain)
            )
            ratios.append(2 * own / (before + after))
            times.append((own, before))
        rng = np.random.default_rng(0)
        medians = np.median(rng.choice(ratios, (2000, len(ratios))), axis=1)
        low, high = np.quantile(medians, [0.025, 0.975])
        own, base = (1e6 * statistics.median(each) for each in zip(*times, strict=True))
        print(
            f"{name:18s} {own:8.0f} µs, reinforce {base:6.0f} µs, "
            f"ratio {statistics.median(ratios):5.2f} [{low:.2f}, {high:.2f}]"
        )


if __name__ == "__main__":
    main()
