"""What splitting a gradient's variance comes to."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from rlgrad.bootstrap import Interval
from rlgrad.plain_data import plain

At = Literal["parameters", "logits"]


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of the variance."""

    value: Interval
    """In squared units of the gradient, per row of an estimate."""
    share: Interval
    """Of the variance; NaN where that is 0."""


@dataclasses.dataclass(frozen=True)
class Split:
    """The variance of one row's term, in parts."""

    environment: str
    signal: str
    at: At
    """Whether norms are those of parameters or of logits."""
    states: int
    copies: int
    seed: int
    square: Part
    """E|g|^2."""
    mean: Part
    """|E g|^2, what an update is after."""
    variance: Part
    """E|g|^2 - |E g|^2, the sum of the next three."""
    action: Part
    """What the best action-dependent control variate removes, and no other can beat it."""
    trajectory: Part
    """What varies given state and action."""
    state: Part
    """What varies between states in the mean gradient of each."""
    left: Part
    """trajectory + state: what neither baselines nor control variates of state and action touch."""
    critic: Part
    """What the critic's value, which the credit has been reduced by, has removed already; its share
    is that of the variance without it."""
    value_baseline: Part
    """What the mean credit in each state, as a baseline, would remove: a critic that is right."""
    baseline: Part
    """What the best baseline of the state would remove."""
    per_logit_baseline: Part
    """What the best baselines of the state, one per logit, would remove."""
    along: Interval
    """Variance of an estimate (its rows' sum) over rows x variance: 1 if rows were uncorrelated."""

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers; what is not finite is None."""
        named: dict[str, Any] = plain(self)
        return named
