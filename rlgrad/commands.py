"""Commands that need no card: evaluate, variance and list."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from rlgrad.display import passing
from rlgrad.errors import UsageError
from rlgrad.report import print_evaluation, print_list, print_variance


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a trained run on Gymnasium's own environment, by sampling and by argmax."""

    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run directory, or "latest"."""
    seed: int | None = None
    """Which of the run's seeds. Default: all."""
    episodes: int = 100
    """Fresh episodes per seed, by sampling and as many by argmax."""
    env_seed: int = 0
    """Seeds of the evaluation episodes; another number, other episodes."""
    env_module: tuple[str, ...] = ()
    """Modules to import first, which register environments."""
    log_dir: str = "runs"
    """Where "latest" looks."""
    json: bool = False
    """Print the result as JSON on standard output."""

    def execute(self, chosen: dict[str, Any]) -> int:
        """Evaluate and print a table."""
        from rlgrad.evaluation import evaluate_run

        if self.episodes < 1:
            raise UsageError(f"got --episodes {self.episodes}; expected at least 1")
        if not 0 <= self.env_seed < 1 << 63:
            raise UsageError(f"got --env-seed {self.env_seed}; expected 0 to 2^63-1")
        rows = evaluate_run(
            self.path, self.seed, self.episodes, self.env_seed, self.env_module, self.log_dir
        )
        if self.json:
            print(json.dumps(rows))
        else:
            print_evaluation(rows)
        return 0


@dataclass(frozen=True)
class Variance:
    """Measure bias, variance and cost of gradient estimators on a problem."""

    target: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PROBLEM")]
    """A problem with a known gradient, see `rlgrad list problems`."""
    estimators: str = "all"
    """Names, such as reinforce,relax; or all."""
    draws: int = 100_000
    """Estimates that each estimator is measured on."""
    train_steps: int = 1000
    """Batches of 256 draws that trained estimators learn from first; 0: none is trained."""
    seed: int = 0
    """Of all noise."""
    noise: float | None = None
    """Standard deviation of fresh noise on every value of f. Default: 0."""
    logit: float | None = None
    """toy: the logit of its Bernoulli. Default: 0."""
    json: bool = False
    """Print the result as JSON on standard output."""

    def execute(self, chosen: dict[str, Any]) -> int:
        """Measure and print a table."""
        self._check()
        import torch

        from rlgrad.problems import measure_all, problem

        torch.set_num_threads(1)  # small tensors: a second thread only waits
        given = {"noise": self.noise, "logit": self.logit}
        target = problem(self.target, **{k: v for k, v in given.items() if v is not None})
        names = [name.strip() for name in self.estimators.split(",")]
        try:
            table = measure_all(
                target,
                None if names == ["all"] else names,
                draws=self.draws,
                train_steps=self.train_steps,
                seed=self.seed,
                progress=lambda line: passing(f"{self.target}: {line}"),
            ).summary()
        finally:
            passing("")
        if self.json:
            print(json.dumps(table))
        else:
            print_variance(table)
        return 0

    def _check(self) -> None:
        for name, least, most in (
            ("draws", 2, 10**9), ("train_steps", 0, 10**7), ("seed", 0, 2**63 - 16),
        ):  # fmt: skip
            if not least <= (value := getattr(self, name)) <= most:
                flag = name.replace("_", "-")
                raise UsageError(f"got --{flag} {value}; expected {least} to {most:,}")
        for name in ("noise", "logit"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise UsageError(f"got --{name} {value}; expected a finite number")


@dataclass(frozen=True)
class List:
    """List agents, environments, estimators or problems."""

    what: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="WHAT")]
    """agents, envs, estimators or problems."""
    cite: bool = False
    """Add the sources."""
    json: bool = False
    """Print as JSON."""

    def execute(self, chosen: dict[str, Any]) -> int:
        """Print a table."""
        from rlgrad.listing import NOTES, rows

        found = rows(self.what)
        if self.json:
            print(json.dumps(found))
        else:
            print_list(self.what, found, self.cite, NOTES.get(self.what, ""))
        return 0
