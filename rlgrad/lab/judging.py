"""From what was gathered of each estimator to a table: against which reference, how certain."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from rlgrad.bootstrap import Interval, bounds, counted
from rlgrad.errors import UsageError
from rlgrad.lab.freeze import Frozen
from rlgrad.lab.measuring import LONGER, REFERENCE, Lab, Measured, Progress, Settings
from rlgrad.lab.members import BASELINE, SCORES, Member, members
from rlgrad.lab.moments import Bias, Floats, Moments, bias_of, found_from
from rlgrad.lab.results import VarianceTable
from rlgrad.lab.rows import Reference, Row
from rlgrad.lab.split import split
from rlgrad.lab.split_result import Split
from rlgrad.lab.tabular import exact_gradient

RESAMPLES = 1000


@dataclass(frozen=True)
class Judged:
    """What is kept of an estimator once its gradients are let go."""

    member: Member
    unbiased: bool
    variances: Floats
    """``[1 + R, layers]``: as it is, then of each resample."""
    cosines: Float[Tensor, " P"]
    """Times a reference of length 1: the mean cosine of batches to it."""
    seconds: float
    bias: Bias | None
    improved: bool

    @property
    def variance(self) -> float:
        """Of one estimate."""
        return float(self.variances[0].sum())


def intervals(found: Floats) -> list[Interval]:
    """An interval of each column ``[1 + R, columns]``."""
    return [Interval(float(x[0]), *bounds(x[1:], 0.95)) for x in found.T]


class Judge:
    """Compares estimators; the first that it sees must be the baseline.

    Args:
        lab: the data.
    """

    def __init__(self, lab: Lab) -> None:
        self.lab, frozen = lab, lab.frozen
        units = int(lab.unit.max()) + 1
        self.weight, self.found_from = counted(units, RESAMPLES, 0), found_from(units)
        self.pull = lab.pull_seconds()
        self.exact = exact_gradient(frozen.learner, frozen.env, frozen.config, lab.shares)
        self.baseline: Measured | None = None
        self.paired: Measured | None = None
        """The least noisy estimator whose unbiasedness rests on E[score] = 0 alone."""
        self.least = math.inf

    def take(self, each: Measured) -> Judged:
        """Judge an estimator by its gradients."""
        own = Moments.of(each.gathered)
        variances, gathered = own.variance(self.weight), each.gathered
        variance = float(variances[0].sum())
        if self.baseline is None:
            self.baseline = each
            self.size = math.sqrt(float(own.square.sum() / own.number.sum()))
        if each.member.estimator in SCORES and variance < self.least:
            self.paired, self.least = each, variance
        return Judged(
            each.member, each.estimator.traits.unbiased, variances,
            gathered.directions / max(gathered.batches, 1), each.seconds, self.bias(each),
            each.improved,
        )  # fmt: skip

    def bias(self, each: Measured) -> Bias | None:
        """Against the exact gradient, else against an estimator that is trusted, in pairs."""
        if self.exact is not None:
            expected = self.lab.unit_rows().unsqueeze(1) * self.exact.float()
            return bias_of(each.gathered.means() - expected, self.size)
        # Score-function estimators rest on the same; among them the plain one serves.
        other = self.baseline if each.member.estimator in SCORES else self.paired
        if other is None or other is each:
            return None
        return bias_of(each.gathered.means() - other.gathered.means(), self.size)

    def completed(self, first: Judged) -> Judged:
        """The baseline, compared with the least noisy one, which is known by now."""
        assert self.baseline is not None
        if self.exact is not None or self.paired is self.baseline or self.paired is None:
            return first
        gap = self.baseline.gathered.means() - self.paired.gathered.means()
        return dataclasses.replace(first, bias=bias_of(gap, self.size))

    def reference(self) -> tuple[Float[Tensor, " P"], Reference]:
        """The exact gradient, else the mean of a long run of its own; with what it is."""
        lab, paired = self.lab, self.paired
        assert paired is not None
        name = paired.member.label
        if self.exact is not None:
            square = float(self.exact.square().sum())
            return self.exact.double(), Reference("exact", name, 0, square, 0.0)
        lab.progress(f"gathering a reference, by {name}")
        data = lab.fresh(REFERENCE, LONGER * lab.settings.states)
        gathered, _ = lab.gathered(paired.estimator, data)
        found = Moments.of(gathered)
        square = float(found.signal(np.ones((1, len(found.number)))).sum())
        mean = gathered.total.double().sum(0) / float(found.number.sum())
        return mean, Reference("long run", name, len(data.column), square, found.error())

    def row(
        self, each: Judged, first: Judged, gradient: Float[Tensor, " P"], about: Reference
    ) -> Row:
        """A row of the table.

        Args:
            each: the estimator.
            first: the baseline.
            gradient: the reference.
            about: what it is.
        """
        member, columns = each.member, self.lab.data.columns
        whole, base = each.variances.sum(1), first.variances.sum(1)
        (variance,) = intervals(whole[:, None])
        (ratio,) = intervals((whole / np.maximum(base, 1e-300))[:, None])
        seconds, others = each.seconds + self.pull, first.seconds + self.pull
        known, bias = about.resolved and about.square > 0, each.bias
        norm = math.sqrt(about.square) if known else math.nan
        return Row(
            member.estimator,
            member.variant,
            member.options,
            member.trained,
            each.improved,
            each.unbiased,
            None if bias is None else bias.norm,
            bias.norm / norm if bias is not None and known else None,
            None if bias is None else bias.z,
            bias is not None and bias.z > self.found_from,
            variance,
            tuple(intervals(each.variances)),
            ratio,
            about.square / variance.value if known and variance.value > 0 else None,
            float(each.cosines @ gradient) / norm if known and bool(each.cosines.any()) else None,
            1e6 * seconds / columns,
            ratio.value * seconds / others,
        )


def layer_names(frozen: Frozen) -> tuple[str, ...]:
    """``4 -> 32``, ... from the first layer on."""
    return tuple(f"{a} -> {b}" for a, b in frozen.learner.policy.used)


def parts_of(frozen: Frozen, lab: Lab) -> tuple[Split | None, str]:
    """(the split of the variance by restoring states, or why there is none)."""
    if not lab.settings.split_states:
        return None, "not asked for"
    lab.progress("splitting the variance")
    try:
        states, seed = lab.settings.split_states, lab.settings.env_seed
        found = split(
            frozen.learner, frozen.env, frozen.config, states=states, seed=seed, shares=lab.shares
        )
    except UsageError as error:
        return None, str(error)
    return found, ""


def judged(
    frozen: Frozen, estimators: Iterable[str] | None, settings: Settings, progress: Progress
) -> VarianceTable:
    """Measure estimators at a frozen policy.

    Args:
        frozen: policy.
        estimators: names; None: all.
        settings: how much of what.
        progress: called with a line about what is being done.
    """
    started = time.process_time()
    wanted, refused = members(frozen, estimators, bool(settings.train_steps))
    lab = Lab(frozen, settings, progress)
    judge = Judge(lab)
    wanted.sort(key=lambda each: (each.estimator != BASELINE, each.estimator not in SCORES))
    found = [judge.take(lab.measured(member)) for member in wanted]
    found[0] = judge.completed(found[0])
    gradient, reference = judge.reference()
    rows = [judge.row(each, found[0], gradient, reference) for each in found]
    parts, reason = parts_of(frozen, lab)
    place = frozen.checkpoint
    return VarianceTable(
        environment=frozen.env.id,
        agent=frozen.agent,
        signal=frozen.config.signal,
        critic=frozen.critic,
        objective=lab.objective,
        run=None if place is None else str(place.parent.parent),
        checkpoint=None if place is None else place.name,
        step=frozen.step,
        seed=frozen.seed,
        states=len(lab.data.column),
        estimates=lab.data.columns,
        lanes=int(lab.data.lane.max()) + 1,
        rows_per_estimate=lab.data.mean_rows,
        batch=frozen.config.num_envs,
        reference=reference,
        found_from=judge.found_from,
        layer_names=layer_names(frozen),
        rows=sorted(rows, key=lambda row: row.variance.value),
        refused=refused,
        split=parts,
        no_split=reason,
        seconds=time.process_time() - started,
    )
