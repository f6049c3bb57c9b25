"""rlgrad: discrete-action policy-gradient agents, and the bias and variance of their gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from rlgrad.agent import Agent as Agent
    from rlgrad.checking import VectorEnvError as VectorEnvError
    from rlgrad.checking import check_vector_env as check_vector_env
    from rlgrad.comparison.comparing import compare as compare
    from rlgrad.comparison.results import Comparison as Comparison
    from rlgrad.errors import UsageError as UsageError
    from rlgrad.evaluation import load as load
    from rlgrad.lab.entry import variance as variance
    from rlgrad.lab.results import VarianceTable as VarianceTable
    from rlgrad.resuming import resume as resume
    from rlgrad.store import Run as Run
    from rlgrad.training import train as train
    from rlgrad.tuning.entry import tune as tune
    from rlgrad.tuning.results import Tuning as Tuning

# Where each public name lives; looked up on first use, so ``import rlgrad`` loads nothing heavy.
_HOMES = {
    "Agent": "rlgrad.agent",
    "Comparison": "rlgrad.comparison.results",
    "Run": "rlgrad.store",
    "Tuning": "rlgrad.tuning.results",
    "UsageError": "rlgrad.errors",
    "VarianceTable": "rlgrad.lab.results",
    "compare": "rlgrad.comparison.comparing",
    "VectorEnvError": "rlgrad.checking",
    "check_vector_env": "rlgrad.checking",
    "load": "rlgrad.evaluation",
    "resume": "rlgrad.resuming",
    "train": "rlgrad.training",
    "tune": "rlgrad.tuning.entry",
    "variance": "rlgrad.lab.entry",
}

__all__ = [
    "Agent", "Comparison", "Run", "Tuning", "UsageError", "VarianceTable", "VectorEnvError",
    "__version__", "check_vector_env", "compare", "load", "resume", "train", "tune", "variance",
]  # fmt: skip


def __getattr__(name: str) -> object:
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module 'rlgrad' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
