"""The policy for acting: on the CPU in numpy, on the tensors' own memory.

One env step of a few lanes costs dispatch, not arithmetic, and numpy dispatches several times
faster than torch. Each seed is multiplied by itself, so its bits do not depend on its company.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Num
from numpy.typing import NDArray
from torch import Tensor, nn

from rlgrad.estimators.arrays import in_numpy
from rlgrad.estimators.convolution import SeedConv
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


class Acting(nn.Module):
    """How a learner sees observations and acts; what it is made of is set by who derives from it.

    Attributes:
        policy: network of S seeds.
        features: F, width of the flattened observation; with masks it is W = F + D x A wide.
        shape: (D, A).
        masked: whether observations carry masks.
        normaliser: of observations; None: ``_scale``, or an image.
    """

    policy: SeedMLP | SeedConv
    normaliser: Normaliser | None
    value_scale: Tensor
    features: int
    shape: tuple[int, int]
    masked: bool
    _scale: Tensor | None
    _allowed: Tensor | None

    def see(self, observation: Num[Tensor, "S *batch W"]) -> Num[Tensor, "S *batch F"]:
        """Observations as the networks see them: scaled or normalised; images as they are.

        Masks, which only the policy's logits read, are left out.
        """
        if self.masked:
            observation = observation[..., : self.features]
        if self._scale is not None:
            return observation * self._scale
        return observation if self.normaliser is None else self.normaliser(observation)

    def _as_logits(self, output: Tensor, observation: Num[Tensor, "S *batch W"]) -> Tensor:
        """The policy's outputs as ``[S, *batch, D, A]``; -inf where there is no such category."""
        D, A = self.shape
        logits = output[..., : D * A].reshape(*observation.shape[:-1], D, A)
        if self._allowed is not None:
            logits = logits.where(self._allowed, -torch.inf)
        if not self.masked or observation.shape[-1] == self.features:
            return logits
        allowed = observation[..., self.features :].reshape(logits.shape) > 0
        # Rows that are no transitions may forbid everything; their logits must be numbers too.
        return logits.where(allowed | ~allowed.any(-1, keepdim=True), -torch.inf)

    def logits(self, observation: Num[Tensor, "S *batch W"]) -> Float[Tensor, "S *batch D A"]:
        """The policy at raw observations, with their masks if they carry any."""
        return self._as_logits(self.policy(self.see(observation)), observation)

    def actor(self) -> Callable[[Any], Any]:
        """The policy for acting: raw observations ``[S, N, F]`` -> logits ``[S, N, D, A]``.

        It takes and gives numpy arrays, or tensors if it is given tensors; no graph is kept.
        """
        if in_numpy(self.policy.flat) and isinstance(self.policy, SeedMLP):
            return Actor(self.policy, self._scale, self.normaliser, self._allowed, self.shape)

        @torch.no_grad()
        def act(observation: Any) -> Any:
            logits = self.logits(torch.as_tensor(observation, device=self.value_scale.device))
            return logits if isinstance(observation, Tensor) else logits.cpu().numpy()

        return act
