"""What measuring estimators on a problem comes to."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from rlgrad.config import short_name
from rlgrad.problems.base import Problem

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Result:
    """What one estimator came to."""

    estimator: str
    variant: str
    """What tells its rows apart; empty for the plain one."""
    options: dict[str, Any]
    trained: bool | None
    """None: it has nothing to train."""
    unbiased: bool
    """As declared."""
    evaluations: int
    """Values of f per estimate, the value of the choice included."""
    bias: float | None
    """Norm of the mean estimate minus the exact gradient; None where that is not affordable."""
    z: float | None
    """The largest |bias| of a logit in standard errors."""
    variance: float
    """Of one estimate, summed over the logits that are parameters."""
    signal_to_noise: float
    """Squared norm of the exact gradient (or else of the mean estimate) over the variance."""
    microseconds: float
    """Wall-clock per estimate, in batches."""

    @property
    def label(self) -> str:
        """The estimator with what tells its rows apart."""
        stage = {None: "", False: "untrained", True: "trained"}[self.trained]
        return " ".join(filter(None, [short_name(self.estimator), self.variant, stage]))

    @property
    def log_variance(self) -> float:
        """Natural logarithm of the variance; -inf where it is 0."""
        return math.log(self.variance) if self.variance > 0 else -math.inf

    @property
    def cost(self) -> float:
        """Variance x evaluations: the variance at one value of f per estimate."""
        return self.variance * self.evaluations


@dataclass(frozen=True)
class Refusal:
    """An estimator that the problem cannot serve, and why."""

    estimator: str
    reason: str


@dataclass(frozen=True)
class Table:
    """All estimators on one problem, by variance."""

    problem: Problem
    draws: int
    train_steps: int
    mean: float | None
    """E[f]; None where enumerating is not affordable."""
    gradient: Tensor | None
    """``[D, A]`` exact; None likewise."""
    results: list[Result] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)

    @property
    def best(self) -> Result | None:
        """The unbiased estimator of least variance x evaluations that does not enumerate f."""
        able = (r for r in self.results if r.unbiased and r.estimator != "exact")
        return min(able, key=lambda r: r.cost, default=None)

    @property
    def signal(self) -> float | None:
        """Squared norm of the exact gradient."""
        if self.gradient is None:
            return None
        return float(self.problem.counted(self.gradient).square().sum())

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers; ``summary`` by the name that all tables share."""
        return self.summary()

    def plot(self) -> Figure:
        """Variances as bars, those of biased estimators hollow."""
        from rlgrad.plots import bars
        from rlgrad.stats import Interval

        rows = {
            row.label: Interval(row.variance, row.variance, row.variance) for row in self.results
        }
        return bars(rows, "variance of one estimate", biased=[
            row.label for row in self.results if not row.unbiased
        ])  # fmt: skip

    def _repr_html_(self) -> str:
        """For a notebook."""
        keys = ("label", "evaluations", "bias", "z", "variance", "signal_to_noise", "microseconds")
        head = "".join(f"<th>{key.replace('_', ' ')}</th>" for key in keys)
        body = "".join(
            "<tr>" + "".join(f"<td>{_shown(getattr(row, key))}</td>" for key in keys) + "</tr>"
            for row in self.results
        )
        return f"<p>{self.problem.name}</p><table><tr>{head}</tr>{body}</table>"

    def summary(self) -> dict[str, Any]:
        """As JSON has it; None for what is infinite."""
        properties = ("label", "log_variance", "cost")
        rows = [asdict(r) | {key: getattr(r, key) for key in properties} for r in self.results]
        return {
            "problem": self.problem.name,
            "summary": self.problem.summary,
            "noise": self.problem.noise,
            "draws": self.draws,
            "train_steps": self.train_steps,
            "mean": self.mean,
            "signal": self.signal,
            "best": self.best.label if self.best else None,
            "results": [{key: _finite(value) for key, value in row.items()} for row in rows],
            "refused": [asdict(each) for each in self.refused],
        }


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
