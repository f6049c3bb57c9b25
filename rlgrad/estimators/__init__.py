"""Gradient estimators for discrete random choices: usable without the rest of rlgrad."""

from rlgrad.estimators.base import Draw, Estimator, Traits, estimate, one_hot, surrogate
from rlgrad.estimators.build import ESTIMATORS, build, options
from rlgrad.estimators.exact import exact_gradient
from rlgrad.estimators.measure import Measurement, measure

__all__ = [
    "ESTIMATORS",
    "Draw",
    "Estimator",
    "Measurement",
    "Traits",
    "build",
    "estimate",
    "exact_gradient",
    "measure",
    "one_hot",
    "options",
    "surrogate",
]
