"""Which observations are images, and which network an agent has for its observations."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Space

from rlgrad.config import Config
from rlgrad.errors import UsageError
from rlgrad.estimators.convolution import SMALLEST, Image, SeedConv
from rlgrad.estimators.networks import SeedMLP


def is_bytes(space: Space[Any]) -> bool:
    """Whether observations are stored as one byte a number."""
    return isinstance(space, Box) and space.dtype in (np.uint8, np.bool_)


def image_of(space: Space[Any], network: str) -> Image | None:
    """How observations of a space are images; None: a perceptron sees them.

    Args:
        space: of one environment, not flattened.
        network: the card's: auto, mlp or cnn.

    Raises:
        UsageError: for cnn where observations are no images.
    """
    shape = space.shape if isinstance(space, Box) else ()
    sides, last = shape[1:], len(shape) == 3 and shape[2] < shape[0]
    if last:
        sides = shape[:2]
    fits = len(shape) == 3 and min(sides) >= SMALLEST
    if network == "cnn" and not fits:
        raise UsageError(
            f"--network cnn, but the environment observes {space}; expected a Box [channels, "
            f"height, width] or [height, width, channels] of at least {SMALLEST} x {SMALLEST} "
            "pixels: use --network auto"
        )
    if network == "mlp" or not fits or (network == "auto" and not is_bytes(space)):
        return None
    channels = shape[2] if last else shape[0]
    return Image(channels, *sides, last, 1 / 255 if space.dtype == np.uint8 else 1.0)


def make_network(
    inputs: int,
    outputs: int,
    config: Config,
    seeds: int,
    image: Image | None,
    head_gain: float,
) -> SeedMLP | SeedConv:
    """A policy or a critic.

    Args:
        inputs: features in.
        outputs: numbers out.
        config: widths and activation of a perceptron.
        seeds: S.
        image: what the features are an image of; None: of nothing.
        head_gain: scale of the initial last layer.
    """
    if image is not None:
        return SeedConv(image, outputs, seeds, head_gain=head_gain)
    return SeedMLP(
        inputs, outputs, config.hidden, seeds, activation=config.activation, head_gain=head_gain
    )
