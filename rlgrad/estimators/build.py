"""The table of estimators, and the one function that makes a member ready to use."""

from __future__ import annotations

import inspect
import sys
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
from rlgrad.estimators.traits import Traits

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


def _own(name: str) -> type[Estimator]:
    """The class that ``module:Class`` names. Nothing is imported: that is for who named it."""
    module, _, attribute = name.partition(":")
    if module not in sys.modules:
        raise UsageError(
            f"estimator {name!r} is of the module {module!r}, which is not imported; if you trust "
            f"it, pass --env-module {module}"
        )
    found = vars(sys.modules[module])
    cls = found.get(attribute)
    if not (isinstance(cls, type) and issubclass(cls, Estimator)):
        there = [
            key
            for key, value in found.items()
            if isinstance(value, type) and issubclass(value, Estimator) and value is not Estimator
        ]
        raise UsageError(f"{name!r} is no Estimator; in {module} {nearest(attribute, there)}")
    lacking = sorted(getattr(cls, "__abstractmethods__", ()))
    lacking += [] if isinstance(getattr(cls, "traits", None), Traits) else ["traits"]
    lacking += [] if isinstance(getattr(cls, "source", None), str) else ["source"]
    if lacking:
        raise UsageError(
            f"estimator {name!r} has no {', '.join(lacking)}; rlgrad.estimators.Estimator says "
            "what is expected of it"
        )
    return cls


def lookup(name: str) -> type[Estimator]:
    """The estimator class of a name, or of ``module:Class``, where that is imported.

    Raises:
        UsageError: naming the nearest known one.
    """
    if ":" in name:
        return _own(name)
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
        name: one of ``ESTIMATORS``, or ``module:Class`` of an imported module.
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
    cls = lookup(name)
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
