"""The RELAX paper's CartPole result, faithful and with the exact sampler, the family beside it.

    python benchmarks/reproduce_relax.py                  # about ten minutes of one core
    python benchmarks/reproduce_relax.py --plot-only      # table and picture of the recorded run

One episode an update, Monte-Carlo returns, two hidden layers of 10 ReLU units, gamma .99, entropy
.01, Adam with beta2 .99999; solved when 100 episodes in a row average 195 of 200. Step sizes come
from the paper's grid, on 5 seeds from 1000 on, fewest mean episodes to solve: that of the policy
and that of what is trained beside it each for the arms that are shown in the picture, one for both
for the rest of the family. Reported are seeds 0-19 at the chosen step sizes, and the shown arms at
``EQUAL`` ones too. A seed that is not solved counts with the episodes that it had. Intervals are
95 % bootstrap intervals over seeds. At some episodes the variance of the gradient is measured
(relax_variance.py). Arms may be run one after another, or side by side into files of their own
(--arms, --json): what is recorded of other arms stays, and --merge takes it over. Writes
benchmarks/results/reproduce_relax.json and docs/images/reproduce_relax.png.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from relax_arms import ARMS
from relax_pages import SHOWN, episodes_to_solve, plot, ratios, row_of, show
from relax_protocol import Study
from relax_variance import measured, parts

from rlgrad.options import parse_seeds

HERE = Path(__file__).resolve().parent
RESULTS, IMAGES = HERE / "results", HERE.parent / "docs" / "images"
GRID = (0.01, 0.003, 0.001)
EQUAL = (0.01, 0.01)  # at which the shown arms are run once more
TABLES = ("arms", "variance", "equal")
Rates = dict[str, list[tuple[float, float]]]
PAPER = {"a2c": [1152, 90], "relax": [472, 114], "ratio": 2.44}


def settings(name: str) -> list[tuple[float, float]]:
    """The step sizes that an arm is searched over."""
    if name in SHOWN:
        return list(product(GRID, GRID))
    return [(rate, rate) for rate in GRID]


def trained(
    what: str, rates: Rates, seeds: Sequence[int], episodes: int, watch: Any = None
) -> Study:
    """Learners of each arm at each of its step sizes, on each seed, in this order."""
    settings = {
        name: [(seed, *rate) for rate in each for seed in seeds] for name, each in rates.items()
    }
    study = Study(settings)

    def progress(number: int) -> None:
        if number % 100 == 0:
            print(f"{what}: {number} episodes, {(study.solved > 0).sum()} solved", flush=True)
        if watch is not None:
            watch(study, number)

    study.run(episodes, progress)
    return study


def judged(study: Study, rates: Rates, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(mean episodes to solve, seeds solved) of each setting; unsolved ones count as by now."""
    times, solved = episodes_to_solve(study, name, len(study.returns))
    shape = len(rates[name]), -1
    return times.reshape(shape).mean(1), solved.reshape(shape).sum(1)


def search(names: Sequence[str], seeds: list[int], episodes: int) -> dict[str, Any]:
    """The choice of step sizes, the same for every arm: fewest mean episodes to solve.

    An arm stops where none of its other settings can overtake any more.
    """
    rates = {name: settings(name) for name in names}

    def stop_decided(study: Study, number: int) -> None:
        for name in names:
            mean, solved = judged(study, rates, name)
            if solved[mean.argmin()] == len(seeds):
                study.idle[study.rows[name]] = True

    study, found = trained("search", rates, seeds, episodes, stop_decided), {}
    for name in names:
        mean, solved = judged(study, rates, name)
        trials = [
            {"rates": rate, "mean": float(m), "solved": int(s)}
            for rate, m, s in zip(rates[name], mean, solved, strict=True)
        ]
        found[name] = {"chosen": rates[name][int(mean.argmin())], "trials": trials}
        print(f"{name:20s} {trials}", flush=True)
    return found


class Measures:
    """Measures the variance of some arms' gradients at some episodes."""

    def __init__(self, at: Sequence[int], lanes: int, states: int) -> None:
        self.at, self.lanes, self.states = at, lanes, states
        self.rows: list[dict[str, Any]] = []

    def __call__(self, study: Study, number: int) -> None:
        """Before episode ``number``."""
        if number not in self.at:
            return
        for name in (each for each in SHOWN if each in study.groups):
            group = study.groups[name]
            row = {"arm": name, "episode": number, **measured(group, self.lanes, number)}
            row["solved"] = int((study.solved[study.rows[name]] > 0).sum())
            if name in ("a2c", "relax"):
                row["parts"] = parts(group, 4, self.states, 16)
            self.rows.append(row)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Search, then train and measure on the reported seeds."""
    names, seeds = arguments.arms.split(","), parse_seeds(arguments.seeds)
    results = {"paper": PAPER, "seeds": seeds, "most_episodes": arguments.episodes}
    tuning = parse_seeds(arguments.search_seeds)
    found = search(names, tuning, arguments.search_episodes)
    measures = Measures(arguments.at, arguments.lanes, arguments.states)
    rates = {name: [found[name]["chosen"]] for name in names}
    study = trained("reported seeds", rates, seeds, arguments.episodes, measures)
    rows = [row_of(study, name, rates[name][0], arguments.episodes) for name in names]
    results |= {"search_seeds": arguments.search_seeds, "search": found}
    results |= {"search_episodes": arguments.search_episodes}
    return results | {"arms": rows, "variance": measures.rows, **equal(arguments)}


def equal(arguments: argparse.Namespace) -> dict[str, Any]:
    """The shown arms at one pair of step sizes, which no search has chosen."""
    names = [name for name in arguments.arms.split(",") if name in SHOWN]
    if not names:
        return {"equal": []}
    rates, seeds = {name: [EQUAL] for name in names}, parse_seeds(arguments.seeds)
    study = trained("equal step sizes", rates, seeds, arguments.episodes)
    return {"equal": [row_of(study, name, EQUAL, arguments.episodes) for name in names]}


def merged(results: dict[str, Any], paths: Sequence[Path]) -> dict[str, Any]:
    """With what was recorded of other arms, in the order of ``ARMS``."""
    results = {table: [] for table in TABLES} | results
    for path in (each for each in paths if each.exists()):
        old = json.loads(path.read_text())
        for table in TABLES:
            new = {row["arm"] for row in results[table]}
            results[table] += [row for row in old.get(table, []) if row["arm"] not in new]
        results = old | results | {"search": old.get("search", {}) | results.get("search", {})}
    for table in TABLES:
        results[table].sort(key=lambda row: list(ARMS).index(row["arm"]))
    pairs = {"ratios": ratios(results["arms"]), "equal_ratios": ratios(results["equal"])}
    return results | pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--seeds", default="0-19")
    parser.add_argument("--episodes", type=int, default=1250, help="at most")
    parser.add_argument("--search-seeds", default="1000-1004")
    parser.add_argument("--search-episodes", type=int, default=600, help="at most")
    parser.add_argument("--at", type=int, nargs="+", default=[50, 150, 300])
    parser.add_argument("--lanes", type=int, default=128, help="episodes that variance is of")
    parser.add_argument("--states", type=int, default=64, help="that the variance is split in")
    parser.add_argument("--json", type=Path, default=RESULTS / "reproduce_relax.json")
    parser.add_argument("--picture", type=Path, default=IMAGES / "reproduce_relax.png")
    parser.add_argument("--only-equal", action="store_true", help="only at equal step sizes")
    parser.add_argument("--merge", type=Path, nargs="+", default=[], help="files; trains nothing")
    parser.add_argument("--plot-only", action="store_true", help="show the recorded results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.plot_only:
        results = json.loads(arguments.json.read_text())
    else:
        first, *others = arguments.merge or [None]
        made = equal if arguments.only_equal else run
        fresh = json.loads(first.read_text()) if first else made(arguments)
        results = merged(fresh, [*others, arguments.json])
        arguments.json.write_text(json.dumps(results) + "\n")
    show(results)
    plot(results, arguments.picture)


if __name__ == "__main__":
    main()
