"""What measuring estimators at a frozen policy comes to."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from rlgrad.bootstrap import Interval
from rlgrad.config import short_name
from rlgrad.lab.members import BASELINE, Refusal
from rlgrad.lab.split_result import Split
from rlgrad.plain_data import plain


@dataclass(frozen=True)
class Row:
    """What one estimator came to; squares are those of one estimate, in the update's units."""

    estimator: str
    variant: str
    """What tells its rows apart; empty for the plain one."""
    options: dict[str, Any]
    trained: bool | None
    """None: it has nothing to train."""
    improved: bool
    """Whether each fit that it rests on became better than its initial parameters."""
    unbiased: bool
    """As declared."""
    bias: float | None
    """Norm of the mean estimate minus the reference; None where nothing is to compare with."""
    bias_relative: float | None
    """The same relative to the norm of the reference; None where that is not resolved."""
    z: float | None
    """Of the bias: split-half t statistic; None where there is nothing to compare with."""
    found_biased: bool
    """Whether z is above the table's ``found_from``: a bias was found, declared or not."""
    variance: Interval
    """Trace of the covariance of one estimate, with 95 % bounds."""
    layers: tuple[Interval, ...]
    """The same by layer of the policy, the first layer first."""
    ratio: Interval
    """Variance relative to the baseline's, on the same lanes resampled together."""
    signal_to_noise: float | None
    """Squared norm of the reference over the variance."""
    cosine: float | None
    """Mean cosine of a batch's gradient, at the card's own batch, to the reference."""
    microseconds: float
    """CPU time per estimate: its gradient at the logits, and pulling that back."""
    cost: float
    """Variance x time, relative to the baseline."""

    @property
    def label(self) -> str:
        """The estimator with what tells its rows apart."""
        stage = {None: "", False: "untrained", True: "trained"}[self.trained]
        return " ".join(filter(None, [short_name(self.estimator), self.variant, stage]))


@dataclass(frozen=True)
class Reference:
    """What biases and cosines are taken against."""

    kind: str
    """"exact" or "long run"."""
    estimator: str
    """Whose mean it is; paired differences to it say how biased the others are."""
    states: int
    """Visited; 0 where it is exact."""
    square: float
    """Squared norm, without what its noise adds."""
    error: float
    """Its standard error: root of the variance of its mean, summed over parameters."""

    @property
    def resolved(self) -> bool:
        """Whether its norm is clear of its noise, so that it has a direction to speak of."""
        return self.square > 4 * self.error**2


@dataclass(frozen=True)
class Measurements:
    """All estimators at one frozen policy, by variance."""

    environment: str
    agent: str
    signal: str
    critic: str
    """"own": as in training, "fitted" on data of its own, "none"."""
    objective: str
    """Whose squared norm control variates were fitted to."""
    run: str | None
    checkpoint: str | None
    """None: initial parameters."""
    step: int
    """Env steps of training behind the policy."""
    seed: int
    states: int
    """Visited states that were measured on."""
    estimates: int
    lanes: int
    """Independent ones."""
    rows_per_estimate: float
    batch: int
    """Estimates of one update, as the card says."""
    reference: Reference
    found_from: float
    """z above which a bias counts as found: without one, once in 10^6 rows."""
    layer_names: tuple[str, ...]
    rows: list[Row] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    split: Split | None = None
    """The variance in parts: of the action, the trajectory, the state."""
    no_split: str = ""
    """Why there is none."""
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    """CPU time of it all."""
    history: tuple[Measurements, ...] = ()
    """The same at earlier checkpoints, oldest first."""

    @property
    def best(self) -> Row | None:
        """The unbiased estimator of least variance."""
        able = (row for row in self.rows if row.unbiased and not row.found_biased)
        return min(able, key=lambda row: row.variance.value, default=None)

    @property
    def dead(self) -> str:
        """What is to be said of fits that did not improve on their start; empty without any."""
        names = ", ".join(row.label for row in self.rows if not row.improved)
        return names and (
            f"the fits of {names} did not improve on their initial parameters on the held-out "
            "lanes, so these rows say little"
        )

    @property
    def baseline(self) -> Row:
        """What ratios are relative to."""
        return next(row for row in self.rows if row.estimator == BASELINE)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: plain numbers, None for what is not finite."""
        own = {
            each.name: getattr(self, each.name)
            for each in dataclasses.fields(self)
            if each.name not in ("rows", "history", "split")
        }
        rows = [{"label": row.label, **dataclasses.asdict(row)} for row in self.rows]
        best = self.best.label if self.best else None
        parts = None if self.split is None else self.split.to_dict()
        history = [table.to_dict() for table in self.history]
        named: dict[str, Any] = plain(
            {**own, "best": best, "split": parts, "rows": rows, "history": history}
        )
        return named
