"""The policy for acting: on the CPU in numpy, on the tensors' own memory.

One env step of a few lanes costs dispatch, not arithmetic, and numpy dispatches several times
faster than torch. Each seed is multiplied by itself, so its bits do not depend on its company.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Num
from numpy.typing import NDArray
from torch import Tensor

from rlgrad.estimators.networks import SeedMLP
from rlgrad.normalise import CLIP, Normaliser

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
        bias, weight = self.layers[-1]  # without the padding, so that the outputs are contiguous
        self.layers[-1] = bias[..., : network.outputs], weight[..., : network.outputs]

    def __call__(self, x: Float[np.ndarray, "S N inputs"]) -> Float[np.ndarray, "S N outputs"]:
        """Outputs of all learners."""
        if x.shape[1] > self.most_rows:
            with torch.no_grad():
                return self.network(torch.from_numpy(x)).numpy()
        y = x
        for i, (bias, weight) in enumerate(self.layers):
            if i > 0:  # in place, but never in the input
                np.tanh(y, out=y) if self.network.tanh else np.maximum(y, 0, out=y)
            y = y @ weight
            y += bias
        return y


class Actor:
    """The policy at observations ``[S, N, F]`` as arrays: logits ``[S, N, D, A]``, no graph.

    Observations with D x A further columns carry masks: categories with a 0 there are -inf.

    Args:
        policy: network.
        scale: ``[F]`` fixed factors on observations; None: ``normaliser``.
        normaliser: of observations.
        allowed: ``[D, A]`` which categories exist; None: all.
        shape: (D, A).
    """

    def __init__(
        self,
        policy: SeedMLP,
        scale: Tensor | None,
        normaliser: Normaliser | None,
        allowed: Tensor | None,
        shape: tuple[int, int],
    ) -> None:
        self.forward, self.shape = Forward(policy), shape
        self.features = policy.used[0][0]
        self.factor = None if scale is None else scale.numpy()
        self.allowed = None if allowed is None else allowed.numpy()
        if normaliser is not None:
            self.mean = normaliser.mean.float().numpy()[:, None]
            self.deviation = normaliser.deviation.numpy()[:, None]

    def __call__(self, x: Num[np.ndarray, "S N W"]) -> Float[np.ndarray, "S N D A"]:
        """Logits; categories that do not exist, or are not allowed, are -inf."""
        if x.shape[2] != self.features:
            plain, mask = x[..., : self.features], x[..., self.features :]
            return np.where(mask.reshape(*x.shape[:2], *self.shape) > 0, self(plain), -np.inf)
        if self.factor is None:
            x = ((x - self.mean) / self.deviation).clip(-CLIP, CLIP)
        else:
            x = x * self.factor
        y = self.forward(x)
        logits = y.reshape(*y.shape[:2], *self.shape)
        return logits if self.allowed is None else np.where(self.allowed, logits, -np.inf)
