"""Commands that need no card: evaluate, variance and list."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from rlgrad.arguments import parse_pairs
from rlgrad.display import passing
from rlgrad.errors import UsageError
from rlgrad.report import print_evaluation, print_list, print_variance
from rlgrad.terminal import out, tell


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a trained run on Gymnasium's environment, by sampling and argmax."""

    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run directory, or "latest"."""
    seed: int | None = None
    """Which of the run's seeds. Default: all."""
    episodes: int = 100
    """Fresh episodes per seed, by sampling and as many by argmax."""
    best: bool = False
    """Evaluate each seed where its evaluation in training was best. Default: its newest
    checkpoint."""
    step: int | None = None
    """Evaluate the checkpoint at so many env steps."""
    env_seed: int = 0
    """Seeds of the evaluation episodes; another number, other episodes."""
    env_module: tuple[str, ...] = ()
    """Modules to import first, which register environments or hold estimators."""
    log_dir: str = "runs"
    """Where "latest" looks."""
    json: bool = False
    """Print the result as JSON on standard output."""

    def execute(self, chosen: dict[str, Any]) -> int:
        """Evaluate and print a table."""
        import torch

        from rlgrad.evaluation import evaluate_run

        torch.set_num_threads(1)  # small networks: a second thread only waits
        if self.episodes < 1:
            raise UsageError(f"got --episodes {self.episodes}; expected at least 1")
        if not 0 <= self.env_seed < 1 << 63:
            raise UsageError(f"got --env-seed {self.env_seed}; expected 0 to 2^63-1")
        if self.best and self.step is not None:
            raise UsageError("got both --best and --step; expected one of them")
        which = "best" if self.best else "last" if self.step is None else self.step
        rows = evaluate_run(
            self.path, self.seed, self.episodes, self.env_seed, self.env_module, self.log_dir, which
        )
        if self.json:
            out(json.dumps(rows))
        else:
            print_evaluation(rows)
        return 0


@dataclass(frozen=True)
class Variance:
    """Bias and variance of gradient estimators at a frozen policy or on a problem."""

    target: Annotated[
        str | None,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="ENV|PROBLEM", help_behavior_hint=""),
    ] = None
    """Gymnasium id, or a problem with a known gradient, see `rlgrad list problems`."""
    estimators: str = "all"
    """Names, such as reinforce,relax; my_package:MyEstimator for one of yours; or all of
    rlgrad's."""
    run: str | None = None
    """Run whose newest checkpoint is measured, or "latest". Default: initial parameters."""
    checkpoint: str | None = None
    """Checkpoint file of a run instead."""
    every: int = 0
    """With --run: also each so-many-th checkpoint before the newest."""
    agent: str | None = None
    """Card whose initial parameters are measured. Default: actor-critic."""
    signal: Literal["return-to-go", "n-step", "gae"] | None = None
    """Credit of an action. Default: the agent's own."""
    critic: Literal["own", "fitted"] | None = None
    """As it was in training, or fitted on data of its own. Default: own, where a run has one."""
    objective: Literal["logits", "environment", "batch"] | None = None
    """Whose squared norm control variates are fitted to. Default: the agent's own."""
    states: int = 65_536
    """Visited states that are measured on, rounded to whole estimates of at least 32 lanes."""
    fit_states: int = 65_536
    """Visited states that critics, baselines and control variates are fitted on."""
    split_states: int = 64
    """States that are set back to split the variance by its causes; 0: no split."""
    train_steps: int | None = None
    """Steps that trained estimators learn for; 0: none is. Default: 300; for a problem 1000."""
    seed: int | None = None
    """One of the run's seeds, or of the initial parameters; a problem: of all noise. Default: the
    run's first, or 0."""
    env_seed: int = 0
    """Of all data and noise; another number, other data."""
    draws: int = 100_000
    """Problem: estimates that each estimator is measured on."""
    noise: float | None = None
    """Problem: standard deviation of fresh noise on every value of f. Default: 0."""
    logit: float | None = None
    """Problem toy: the logit of its Bernoulli. Default: 0."""
    env_module: tuple[str, ...] = ()
    """Modules to import first, which register environments or hold estimators."""
    env_kwargs: tuple[str, ...] = ()
    """key:value pairs for the environment's constructor."""
    output: str | None = None
    """New folder for the report. Default: LOG-DIR/variance/<environment>/<time>."""
    log_dir: str = "runs"
    """Where "latest" looks and reports are kept."""
    json: bool = False
    """Print the result as JSON on standard output."""

    def execute(self, chosen: dict[str, Any]) -> int:
        """Measure, print a table, and write a report where a policy was measured."""
        self._check()
        from rlgrad.problems import PROBLEMS

        if self.target in PROBLEMS:
            self._refuse(_OF_POLICIES, f"{self.target} is a problem; leave it out")
            return self._problem()
        self._refuse(_OF_PROBLEMS, "it is for problems (rlgrad list problems); leave it out")
        return self._policy()

    def _measured(self, **given: Any) -> Any:
        from rlgrad.lab.entry import variance

        name = self.target or self.run or self.checkpoint
        if self.train_steps is not None:
            given["train_steps"] = self.train_steps
        try:
            return variance(
                self.target, self.estimators, seed=self.seed, **given,
                progress=lambda line: passing(f"{name}: {line}"),
            )  # fmt: skip
        finally:
            passing("")

    def _problem(self) -> int:
        own = {"draws": self.draws, "noise": self.noise, "logit": self.logit}
        table = self._measured(**{k: v for k, v in own.items() if v is not None}).to_dict()
        if self.json:
            out(json.dumps(table))
        else:
            print_variance(table)
        return 0

    def _policy(self) -> int:
        from rlgrad.lab.printing import print_history, print_table
        from rlgrad.lab.writing import place, write

        names = (
            "run", "checkpoint", "every", "agent", "signal", "critic", "objective", "states",
            "fit_states", "split_states", "env_seed", "log_dir",
        )  # fmt: skip
        place(self.target or "run", self.output, self.log_dir)  # refused before anything is done
        table = self._measured(
            env_kwargs=parse_pairs(self.env_kwargs, "--env-kwargs"),
            env_modules=self.env_module,
            **{name: getattr(self, name) for name in names},
        )
        path = place(table.environment, self.output, self.log_dir)
        try:  # what was measured is shown even where it cannot be kept
            path = write(table, path)
        finally:
            if self.json:
                out(json.dumps(table.to_dict()))
            else:
                if table.history:
                    print_history(table)
                print_table(table)
        tell(f"report       {path / 'report.html'}")
        return 0

    def _refuse(self, names: tuple[str, ...], why: str) -> None:
        """Flags that make no sense for the kind of target."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name in names:
            if getattr(self, name) != defaults[name]:
                raise UsageError(f"got --{name.replace('_', '-')}, but {why}")

    def _check(self) -> None:
        for name, least, most in (
            ("draws", 2, 10**9), ("train_steps", 0, 10**7), ("seed", 0, 2**63 - 16),
            ("env_seed", 0, 2**63 - 1), ("states", 1, 10**9), ("fit_states", 1, 10**9),
            ("split_states", 0, 10**6), ("every", 0, 10**9),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                flag = name.replace("_", "-")
                raise UsageError(f"got --{flag} {value}; expected {least} to {most:,}")
        for name in ("noise", "logit"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise UsageError(f"got --{name} {value}; expected a finite number")


_OF_PROBLEMS = ("draws", "noise", "logit")
_OF_POLICIES = (
    "run", "checkpoint", "every", "agent", "signal", "critic", "objective", "states", "fit_states",
    "split_states", "env_seed", "env_module", "env_kwargs", "output",
)  # fmt: skip


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
            out(json.dumps(found))
        else:
            print_list(self.what, found, self.cite, NOTES.get(self.what, ""))
        return 0
