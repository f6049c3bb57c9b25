"""Which versions made a run."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("rlgrad", "torch", "gymnasium", "numpy", "stable-baselines3", "sb3-contrib")


def versions(*more: str) -> dict[str, str]:
    """Versions of Python, of the packages that decide a run's bits, and of ``more``."""
    found = {"python": platform.python_version()}
    for package in (*_PACKAGES, *more):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
