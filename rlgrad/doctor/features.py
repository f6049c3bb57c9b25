"""What each optional package is for, and whether it can be imported."""

from __future__ import annotations

import importlib
import os
import warnings
from dataclasses import dataclass
from typing import Literal

REQUIRED = {
    "torch": "networks, estimators",
    "gymnasium": "environments",
    "numpy": "everything",
    "safetensors": "checkpoints",
    "tensorboard": "curves of runs",
    "matplotlib": "pictures of reports",
    "stable_baselines3": "peers, sb3-ppo and others",
}
"""Modules that ``pip install rlgrad`` brings: module -> what it is for."""
EXTRAS = {
    "watch": (("pygame", "imageio_ffmpeg", "moviepy"), "rlgrad watch: windows and videos"),
    "onnx": (("onnx", "onnxruntime"), "rlgrad export --onnx"),
    "tune": (("optuna",), "rlgrad tune"),
    "ray": (("ray",), "--ray: runs over a cluster"),
    "contrib": (("sb3_contrib",), "peers of sb3-contrib, such as sb3:sb3_contrib.TRPO"),
    "toy-text": (("pygame",), "drawing FrozenLake, Taxi, CliffWalking, Blackjack"),
    "box2d": (("Box2D", "pygame"), "LunarLander"),
    "atari": (("ale_py",), "ALE/..., Atari games"),
    "minatar": (("minatar",), "MinAtar/..., small Atari games"),
    "envpool": (("envpool",), "--vec envpool"),
    "bench": (("rejax", "gymnax", "jax"), "benchmarks beside rejax and PureJaxRL"),
    "examples": (("sklearn",), "examples with handwritten digits"),
    "docs": (("mkdocs", "material", "mkdocstrings"), "the documentation as a site"),
}
"""Extras of the package: name -> (modules, what it is for)."""
VITAL = ("torch", "gymnasium", "numpy", "safetensors", "tensorboard")
"""Without these no run is possible."""


@dataclass(frozen=True)
class Feature:
    """Something that works here or does not."""

    name: str
    """Of the module or the extra."""
    what: str
    """What it is for."""
    state: Literal["ok", "missing", "broken"]
    detail: str = ""
    """What is missing, or what importing it raised."""
    install: str = ""
    """The command that mends it."""


def imported(module: str) -> str:
    """What is wrong with a module: "missing", what importing it raises, or nothing."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module:
            return "missing"
        return f"{module}: {' '.join(str(error).split())}"
    except (Exception, SystemExit) as error:
        return " ".join(f"{module}: {type(error).__name__}: {error}".split())
    return ""


def _feature(name: str, modules: tuple[str, ...], what: str, install: str) -> Feature:
    wrong = {module: found for module in modules if (found := imported(module))}
    if not wrong:
        return Feature(name, what, "ok")
    missing = [module for module, found in wrong.items() if found == "missing"]
    if missing:
        return Feature(name, what, "missing", ", ".join(missing), install)
    return Feature(name, what, "broken", "; ".join(wrong.values()), install)


def required() -> list[Feature]:
    """What every installation has, imported."""
    again = "pip install --force-reinstall rlgrad"
    return [_feature(name, (name,), what, again) for name, what in REQUIRED.items()]


def extras() -> list[Feature]:
    """The package's extras, imported."""
    return [
        _feature(name, modules, what, f"pip install 'rlgrad[{name}]'")
        for name, (modules, what) in EXTRAS.items()
    ]
