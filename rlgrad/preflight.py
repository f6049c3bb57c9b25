"""Checks and choices before anything is allocated: device, memory, what the networks see."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlgrad.config import ESTIMATOR_OPTIONS, OPTION_NAMES, Config
from rlgrad.errors import UsageError
from rlgrad.estimators import Traits, options
from rlgrad.estimators.convolution import Image, layers_of
from rlgrad.reading import installed_memory


class Work(NamedTuple):
    """A training, as far as its device matters."""

    iterations: int
    steps: int
    """T of a rollout."""
    lanes: int
    """L, all seeds together."""
    weights: int
    """Of one network."""
    simulated: bool = True
    """Whether a simulator steps; else the environment does so on the CPU, whatever the device."""
    whole: bool = False
    """Whether episodes are whole."""

    def seconds(self) -> tuple[float, float]:
        """(CPU, GPU) seconds by a rough model, of which the GPU's part is not measured.

        A step costs its dispatch, whatever the lanes, and each lane's arithmetic; a GPU must also
        be started. An environment on the CPU takes as long with either, and is left out.
        """
        captured = self.simulated and not self.whole  # as one CUDA graph
        steps, dispatch = self.iterations * self.steps, 2e-4 if captured else 7e-4
        here, there = 1e-6 + self.weights * 4.5e-10, 1e-8 + self.weights * 2e-12
        return steps * (1.6e-4 + self.lanes * here), 5.0 + steps * (dispatch + self.lanes * there)


def choose_device(wanted: str, work: Work | None) -> tuple[torch.device, str]:
    """The device, and why.

    Args:
        wanted: "auto", or a device.
        work: None: of a peer, which is never sent to a GPU unasked.

    Raises:
        UsageError: for cuda where there is none.
    """
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise UsageError("--device cuda, but torch sees no CUDA device; use --device cpu or auto")
    if wanted != "auto":
        return torch.device(wanted), "as asked"
    if not available:
        return torch.device("cpu"), "no CUDA device"
    if work is None:
        return torch.device("cpu"), "peers train there unless asked otherwise"
    cpu, gpu = work.seconds()
    name, least, most = ("cuda", gpu, cpu) if gpu < cpu else ("cpu", cpu, gpu)
    other = "the CPU" if name == "cuda" else "the GPU"
    why = f"about {least:,.0f} s there and {most:,.0f} s on {other} by a model, not measured"
    return torch.device(name), why if work.simulated else f"{why}, beside stepping"


def weights(config: Config, features: int, outputs: int, image: Image | None = None) -> int:
    """Of a network of the config's width between so many numbers, or of convolutions."""
    widths = pairwise([features, *config.hidden, outputs])
    shapes = widths if image is None else layers_of(image, outputs)[0]
    return sum(a * b for a, b in shapes)


def check_memory(
    config: Config,
    features: int,
    actions: int,
    lanes: int,
    steps: int,
    image: Image | None = None,
) -> None:
    """Refuse what cannot fit this machine's memory, before it is allocated.

    Args:
        config: for the widths of the networks.
        features: F.
        actions: A.
        lanes: L, all seeds together.
        steps: T of a rollout.
        image: what the features are an image of; None: of nothing.

    Raises:
        UsageError: with the size that was asked for.
    """
    shapes = list(pairwise([features, *config.hidden, actions]))
    between = features + sum(out for _, out in shapes)
    if image is not None:
        shapes, between = layers_of(image, actions)
        features = -(-features // 4)  # a byte each
    parameters = sum(a * b for a, b in shapes) * lanes // config.num_envs
    rows = lanes * steps * (2 * features + 3 * actions + 2 * between)
    needed = 4 * (15 * parameters + rows)  # value, gradient, two moments, kept copy; 3 networks
    installed = installed_memory()
    if needed > installed:
        raise UsageError(
            f"this needs about {needed / 2**30:,.0f} GiB, and the machine has "
            f"{installed / 2**30:,.0f}; use fewer seeds or environments, or smaller networks"
        )


def observation_factors(space: Any, config: Config, is_image: bool = False) -> list[float] | None:
    """Factors on the flattened observation: the card's, 1 / bound for integers; None: normalise.

    Convolutions see an image as it is: None too.

    Raises:
        UsageError: where the card has factors for another number of features, or for an image.
    """
    features, scale = int(np.prod(space.shape)), config.observation_scale
    if is_image:
        if scale or config.normalize_observations == "on":
            raise UsageError(
                "observation_scale and normalize_observations are for perceptrons, and "
                "convolutions scale pixels themselves: leave them out, or say --network mlp"
            )
        return None
    if config.normalize_observations == "on":
        return None
    if scale:
        if len(scale) != features:
            raise UsageError(
                f"observation_scale has {len(scale)} numbers; the environment's flattened "
                f"observation has {features}"
            )
        return list(scale)
    if config.normalize_observations == "off":
        return [1.0] * features
    if np.issubdtype(space.dtype, np.floating):
        return None
    bound = np.maximum(np.abs(space.low.astype(float)), np.abs(space.high.astype(float)))
    if bound.max() > 1e6:
        return None
    factors: list[float] = (1.0 / np.maximum(bound, 1.0)).reshape(-1).tolist()
    return factors


def estimator_options(config: Config) -> dict[str, object]:
    """What the config says to its estimator; refuses what that estimator does not take."""
    known, chosen = options(config.estimator), {}
    names = {field: OPTION_NAMES.get(field, field) for field in ESTIMATOR_OPTIONS}
    for field, name in names.items():
        value = getattr(config, field)
        if value is None or value is False:  # by identity: 0 is a choice, and equal to False
            continue
        if name not in known:
            takes = ", ".join(each for each in names if names[each] in known) or "none"
            raise UsageError(
                f"estimator {config.estimator} has no option {field!r}; it takes {takes}"
            )
        chosen[name] = value
    if "hidden" in known:
        chosen["hidden"] = config.hidden
    return chosen


def check_needs(config: Config, traits: Traits) -> None:
    """Refuse an estimator that needs more of f than an environment gives.

    Raises:
        UsageError: with what to use instead.
    """
    name = config.estimator
    if traits.values > 1 or traits.enumerable:
        raise UsageError(
            f"estimator {name} needs f at more than the action taken, and an environment gives "
            "no more: use reinforce, learned or relax"
        )
    if config.action_critic and not traits.differentiable:
        raise UsageError(
            f"estimator {name} makes no use of --action-critic; leave it out, or take one that "
            "needs a differentiable f, such as rebar"
        )
    if traits.differentiable and not config.action_critic:
        raise UsageError(
            f"estimator {name} needs a differentiable f, and an environment is none: add "
            "--action-critic to learn one, Q(observation, relaxed action), or use relax"
        )


def fitting(
    path: Path,
    name: str,
    found: Tensor | None,
    dtype: torch.dtype,
    shape: Sequence[int],
    row: int | None = None,
) -> Tensor:
    """A checkpoint's tensor, if it is what the card needs.

    Args:
        path: of the checkpoint.
        name: of the tensor.
        found: the tensor; None: there is none.
        dtype: that is needed.
        shape: that is needed.
        row: whose numbers must be finite; None: all.

    Raises:
        UsageError: for another type or shape, or numbers that are not finite.
    """
    if found is not None and (found.dtype, dtype) == (torch.float32, torch.float64):
        found = found.to(dtype)  # statistics of older checkpoints
    if found is None or list(found.shape) != list(shape) or found.dtype != dtype:
        came = "nothing" if found is None else f"{found.dtype} {list(found.shape)}"
        raise UsageError(f"{path}: {name} is {came}; its card needs {dtype} {list(shape)}")
    if not bool((found if row is None else found[row]).isfinite().all()):
        raise UsageError(f"{path}: {name} has numbers that are not finite")
    return found
