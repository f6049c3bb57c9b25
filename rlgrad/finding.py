"""Environments by what a user calls them: an id, and the module that registers it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from types import ModuleType

import gymnasium

from rlgrad.errors import UsageError, nearest, raised, shown
from rlgrad.extras import register
from rlgrad.naming import namespace


def import_module(name: str, hint: str = "") -> ModuleType:
    """Import a module that the user named (``--env-module``, ``module:Env-v0``, ``sb3:`` ...).

    Args:
        name: of the module.
        hint: what to do where it cannot be imported, for the message.

    Raises:
        UsageError: where importing raises anything.
    """
    try:
        if name not in sys.modules:
            _look_here(name)
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        text = raised(error)
        if isinstance(error, ModuleNotFoundError) and not hint and error.name == name:
            hint = "; expected a module in this directory or installed with pip install -e"
        raise UsageError(f"cannot import module {name!r}: {text}{hint}") from None


def _look_here(name: str) -> None:
    """Find what the user named in the working directory too, as ``python -m`` would."""
    top, here = name.partition(".")[0], os.getcwd()
    if here not in sys.path and importlib.util.find_spec(top) is None:
        there = os.path.join(here, top)
        if os.path.isdir(there) or os.path.isfile(f"{there}.py"):
            sys.path.append(here)  # the last: it must not stand in for anything installed


def home(found: gymnasium.envs.registration.EnvSpec) -> str:
    """The top package that an environment comes from."""
    entry = found.entry_point
    name = entry if isinstance(entry, str) else getattr(entry, "__module__", "")
    return name.partition(":")[0].partition(".")[0]


def spec(env_id: str) -> gymnasium.envs.registration.EnvSpec:
    """Gymnasium's entry of an id; imports the module of ``module:Env-v0``.

    Raises:
        UsageError: for an unknown id, with the nearest known ones.
    """
    module, colon, name = env_id.rpartition(":")
    if colon and not module:
        raise UsageError(f"unknown environment {shown(env_id)}; expected module:Env-v0 or Env-v0")
    if module:
        import_module(module)
    else:
        register(namespace(name))
    try:
        return gymnasium.spec(name)
    except gymnasium.error.Error:
        if module and not name.startswith("ALE/"):
            own = [k for k, v in gymnasium.registry.items() if home(v) == module.split(".")[0]]
            what = (
                nearest(name, own)
                if own
                else (
                    f"{module} was imported and registers none: it must call gymnasium.register(id="
                    f"{name!r}, entry_point='{module}:YourClass')"
                )
            )
            raise UsageError(f"unknown environment {shown(env_id)}; {what}") from None
        hint = (
            "`rlgrad list envs` shows those with a card, Gymnasium's documentation all of its own; "
            "yours: --env-module my_package, or my_package:Env-v0"
        )
        near = nearest(name, gymnasium.registry, otherwise=hint)
        raise UsageError(f"unknown environment {shown(env_id)}; {near}") from None
