"""A network's forward pass for acting on the CPU, in numpy on the tensors' own memory.

One env step of a few lanes costs dispatch, not arithmetic, and numpy dispatches several times
faster than torch. Each seed is multiplied by itself, so its bits do not depend on its company.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from rlgrad.estimators.networks import SeedMLP

# Multiplications per seed and layer; beyond, arithmetic outweighs dispatch and torch is faster.
MOST_WORK = 1 << 17


class Forward:
    """``network(x)`` without a graph; follows the network's parameters, which it shares.

    Args:
        network: on the CPU.
    """

    def __init__(self, network: SeedMLP) -> None:
        self.network = network
        self.most_rows = MOST_WORK // max(fan_in * out for fan_in, out in network.shapes)
        self.layers: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = [
            (bias.numpy(), weight.numpy()) for bias, weight in network.layers(network.flat.detach())
        ]

    def __call__(self, x: Float[Tensor, "S N inputs"]) -> Float[Tensor, "S N outputs"]:
        """Outputs of all learners."""
        if x.shape[1] > self.most_rows:
            return self.network(x)
        y = x.numpy()
        for i, (bias, weight) in enumerate(self.layers):
            if i > 0:
                np.tanh(y, out=y) if self.network.activation == "tanh" else np.maximum(y, 0, out=y)
            y = y @ weight
            y += bias
        return torch.from_numpy(y[..., : self.network.outputs])
