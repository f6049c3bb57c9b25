"""Which observations are images, and which network an agent has for its observations."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Space
from jaxtyping import Num
from torch import Tensor

from rlgrad.config import Config
from rlgrad.errors import UsageError
from rlgrad.estimators.convolution import SMALLEST, Image, ImageBlocks, SeedConv
from rlgrad.estimators.networks import SeedMLP
from rlgrad.estimators.passes import Blocks


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
    last = len(shape) == 3 and shape[2] < shape[0]
    sides = shape[:2] if last else shape[1:]
    fits = len(shape) == 3 and min(sides) >= SMALLEST
    if network == "cnn" and not fits:
        raise UsageError(
            f"--network cnn, but the environment observes {space}; expected a Box [channels, "
            f"height, width] or [height, width, channels] of at least {SMALLEST} x {SMALLEST} "
            "pixels: use --network auto"
        )
    if network == "mlp" or not fits or (network == "auto" and not is_bytes(space)):
        return None
    channels, (height, width) = shape[2] if last else shape[0], sides
    return Image(channels, height, width, last, 1 / 255 if space.dtype == np.uint8 else 1.0)


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


def context_of(
    policy: SeedMLP | SeedConv,
    x: Num[Tensor, "S T N F"],
    *known: Blocks | ImageBlocks | None,
) -> Num[Tensor, "S T N C"]:
    """What an estimator and a critic of relaxed actions see of observations.

    What the policy sees; of images the last hidden layer of the critic, or else of the policy.

    Args:
        policy: network.
        x: ``[S, T, N, F]``, as it sees them.
        known: evaluations at these steps, and perhaps one more; the first that is one counts.
    """
    if not isinstance(policy, SeedConv):
        return x
    found = next(each for each in known if isinstance(each, ImageBlocks))
    S, T, N, _ = x.shape
    return found.hidden.view(S, -1, N, policy.width)[:, :T].contiguous()
