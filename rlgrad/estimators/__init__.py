"""Gradient estimators for discrete random choices: usable without the rest of rlgrad."""

from rlgrad.estimators.base import Draw, Estimator, one_hot
from rlgrad.estimators.build import ESTIMATORS, build, options
from rlgrad.estimators.exact import exact_gradient
from rlgrad.estimators.measure import Measurement, measure
from rlgrad.estimators.objective import estimate, surrogate
from rlgrad.estimators.traits import Traits

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
