"""The table of estimators, and the one function that makes a member ready to use."""

from __future__ import annotations

import inspect
from typing import Any

from rlgrad.errors import UsageError, nearest
from rlgrad.estimators.all_action import AllAction, AllActionControl
from rlgrad.estimators.base import Estimator
from rlgrad.estimators.exact import Exact
from rlgrad.estimators.learned import Learned
from rlgrad.estimators.linear import LinearRelax
from rlgrad.estimators.multisample import Disarm, LeaveOneOut
from rlgrad.estimators.muprop import MuProp
from rlgrad.estimators.rebar import Rebar
from rlgrad.estimators.relax import Relax
from rlgrad.estimators.relaxed import GumbelRao, GumbelSoftmax, ReinMax, StraightThrough
from rlgrad.estimators.score import Constant, Reinforce

ESTIMATORS: dict[str, type[Estimator]] = {
    "exact": Exact,
    "reinforce": Reinforce,
    "constant": Constant,
    "leave-one-out": LeaveOneOut,
    "learned": Learned,
    "muprop": MuProp,
    "gumbel-softmax": GumbelSoftmax,
    "straight-through": StraightThrough,
    "gumbel-rao": GumbelRao,
    "reinmax": ReinMax,
    "rebar": Rebar,
    "relax": Relax,
    "relax-linear": LinearRelax,
    "all-action": AllAction,
    "all-action-control": AllActionControl,
    "disarm": Disarm,
}


def options(name: str) -> dict[str, Any]:
    """The options that an estimator takes, with their defaults."""
    parameters = inspect.signature(lookup(name).__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def lookup(name: str) -> type[Estimator]:
    """The estimator class of a name.

    Raises:
        UsageError: naming the nearest known one.
    """
    if name not in ESTIMATORS:
        raise UsageError(f"unknown estimator {name!r}; {nearest(name, ESTIMATORS)}")
    return ESTIMATORS[name]


def build(
    name: str,
    factors: int = 1,
    categories: int = 2,
    context: int = 0,
    seeds: int | None = None,
    **chosen: Any,
) -> Estimator:
    """A ready estimator with its default networks.

    Args:
        name: one of ``ESTIMATORS``.
        factors: D, independent categorical factors of one choice.
        categories: A, categories per factor.
        context: C, features of the state or input that baselines and control variates see.
        seeds: S, to train S copies at once; then the first batch axis is the seed.
        **chosen: options of that estimator, see ``options(name)``.

    Raises:
        UsageError: for an unknown name or option, with the known ones, or a value out of range.
    """
    known = options(name)
    for key in chosen:
        if key not in known:
            raise UsageError(f"estimator {name} has no option {key!r}; {nearest(key, known)}")
    cls = ESTIMATORS[name]
    if cls.traits.binary and categories != 2:
        raise UsageError(
            f"estimator {name} serves factors of 2 categories, got {categories}; "
            "use relax or leave-one-out for categorical factors"
        )
    try:
        return cls(factors, categories, context, seeds, **chosen)
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"estimator {name}: {error}") from None
