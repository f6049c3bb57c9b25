"""One-step stochastic objectives with a known exact gradient, and every estimator on them."""

from rlgrad.problems.base import Problem
from rlgrad.problems.catalogue import PROBLEMS, problem
from rlgrad.problems.measuring import measure_all
from rlgrad.problems.results import Refusal, Result, Table

__all__ = ["PROBLEMS", "Problem", "Refusal", "Result", "Table", "measure_all", "problem"]
