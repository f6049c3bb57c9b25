"""Networks of S independent learners; multilayer perceptrons are evaluated as one.

All parameters of one learner are one row of a flat ``[S, P]`` tensor: one optimiser step serves
every layer, a per-seed gradient norm is a norm over the last axis, and a learner is stored or
frozen by its row. A seed gets the same bits alone as among many on CPU: every layer is padded to a
multiple of 4 units and every row to a multiple of 64 numbers, so that no kernel meets a tail (see
``docs/decisions.md``). Padding starts at zero, and its gradient is zero, so it stays there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlgrad.estimators import passes
from rlgrad.estimators.arrays import in_numpy
from rlgrad.estimators.layers import activate

ACTIVATIONS = ("tanh", "relu")


def padded(width: int) -> int:
    """The next multiple of 4 units, see ``docs/decisions.md``."""
    return width + -width % 4


class Stack(nn.Module):
    """Layers of S learners, each an affine map, as rows of one flat tensor ``[S, P]``.

    Args:
        used: (fan-in, units) of each layer.
        shapes: the same with padding, as they are stored.
        seeds: S.
        head_gain: scale of the initial last layer; 0 starts the network at zero.
        gain: scale of the initial layers before.
    """

    def __init__(
        self,
        used: Sequence[tuple[int, int]],
        shapes: Sequence[tuple[int, int]],
        seeds: int,
        head_gain: float,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.used, self.shapes = list(used), list(shapes)
        self.head_gain, self.gain = head_gain, gain
        self.outputs = self.used[-1][1]
        self.sizes = [size for fan_in, out in self.shapes for size in (out, fan_in * out)]
        self.sizes.append(-sum(self.sizes) % 64)
        self.flat = nn.Parameter(torch.zeros(seeds, sum(self.sizes)))
        self.initialise(torch.rand(seeds, self.flat.shape[1]))

    def layers(self, flat: Float[Tensor, "S P"]) -> list[tuple[Tensor, Tensor]]:
        """(bias ``[S, 1, out]``, weight ``[S, in, out]``) of each layer, as views of ``flat``."""
        parts = flat.split(self.sizes, dim=1)
        return [
            (parts[2 * i].unsqueeze(1), parts[2 * i + 1].unflatten(1, shape))
            for i, shape in enumerate(self.shapes)
        ]

    @torch.no_grad()
    def initialise(self, uniform: Float[Tensor, "S P"]) -> None:
        """Set zero biases and LeCun-uniform weights from numbers in (0, 1)."""
        self.flat.zero_()
        noise = self.layers(uniform.to(self.flat))
        for i, (fan_in, out) in enumerate(self.used):
            random, weight = (layers[i][1][:, :fan_in, :out] for layers in (noise, self._frozen))
            gain = self.head_gain if i == len(self.used) - 1 else self.gain
            weight.copy_((2 * random - 1) * (gain * math.sqrt(3 / max(fan_in, 1))))

    @property
    def _frozen(self) -> passes.Layers:
        """Views of the parameters as they are, kept while they stay where they are."""
        kept: tuple[int, passes.Layers] | None = self.__dict__.get("_views")
        flat = self.flat.detach()
        if kept is None or kept[0] != flat.data_ptr():
            kept = self.__dict__["_views"] = flat.data_ptr(), self.layers(flat)
        return kept[1]

    def __getstate__(self) -> dict[str, object]:
        # A copy makes views of its own parameters.
        return {name: value for name, value in self.__dict__.items() if name != "_views"}

    def _grouped(self, x: Tensor, seeds: int) -> Tensor:
        """Inputs ``[S, ..., inputs]`` as ``[S, rows, inputs]``."""
        if seeds > 1 and (x.ndim == 1 or x.shape[0] != seeds):
            raise ValueError(
                f"got input of shape {list(x.shape)} for {seeds} seeds; "
                f"the first axis must be the seed, of length {seeds}"
            )
        if x.ndim == 3 and x.shape[0] == seeds:
            return x
        rows = math.prod(x.shape[:-1]) // seeds  # explicit: -1 is ambiguous without inputs
        return x.reshape(seeds, rows, x.shape[-1])

    @torch.no_grad()
    def rescale(self, factor: Float[Tensor, "S 1"]) -> None:
        """Multiply the outputs."""
        for part in self._frozen[-1]:
            part.mul_(factor.unsqueeze(-1))


class SeedMLP(Stack):
    """S perceptrons ``inputs -> hidden -> outputs`` with weights ``[S, in, out]``.

    Args:
        inputs: features in; 0 makes every output a trained constant.
        outputs: numbers out.
        hidden: widths of the hidden layers.
        seeds: S.
        activation: "tanh" (smooth: needed inside a control variate) or "relu".
        head_gain: scale of the initial last layer; 0 starts the network at zero.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: Sequence[int] = (32, 32),
        seeds: int = 1,
        *,
        activation: str = "tanh",
        head_gain: float = 1.0,
    ) -> None:
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation {activation!r} is not one of {', '.join(ACTIVATIONS)}")
        widths = [inputs, *(padded(width) for width in (*hidden, outputs))]
        super().__init__(
            list(pairwise([inputs, *hidden, outputs])), list(pairwise(widths)), seeds, head_gain
        )
        self.tanh = activation == "tanh"

    def _rows(self, x: Tensor, seeds: int) -> Tensor:
        return self._grouped(x if x.dtype == self.flat.dtype else x.to(self.flat.dtype), seeds)

    def _columns(self, y: Tensor, x: Tensor) -> Tensor:
        """Outputs ``[S, rows, padded]`` in the batch shape and dtype of the input x."""
        if y.shape[-1] != self.outputs:
            y = y[..., : self.outputs]
        shape = (*x.shape[:-1], self.outputs)
        if y.shape != shape:
            y = y.reshape(shape)
        return y if y.dtype == x.dtype else y.to(x.dtype)

    def forward(
        self, x: Float[Tensor, "*batch inputs"], flat: Tensor | None = None
    ) -> Float[Tensor, "*batch outputs"]:
        """Evaluate all learners, with other parameters where ``flat`` ``[S, P]`` is given.

        Args:
            x: ``[S, ..., inputs]``; with one learner the leading axis may have any length.
            flat: ``[S, P]`` parameters instead of the network's own.
        """
        layers = (
            self.layers(self.flat if flat is None else flat)
            if torch.is_grad_enabled() or flat is not None
            else self._frozen
        )
        rows = self._rows(x, layers[0][0].shape[0])
        together = rows.shape[1] <= passes.BLOCK or not in_numpy(rows)
        if torch.is_grad_enabled() or together:
            y = passes.evaluate(rows, layers, self.tanh)
        else:
            parts = rows.split(passes.BLOCK, 1)
            y = torch.cat([passes.evaluate(part, layers, self.tanh) for part in parts], 1)
        return self._columns(y, x)

    @torch.no_grad()
    def trace(self, x: Float[Tensor, "*batch inputs"], flat: Tensor | None = None) -> passes.Trace:
        """An evaluation whose reverse pass is at hand without autograd; arguments of ``forward``.

        Its outputs are ``[S, rows, padded]``; gradients at them may leave the padding out.
        """
        layers = self._frozen if flat is None else self.layers(flat)
        return passes.Trace(self._rows(x, len(layers[0][0])), layers, self.tanh, self.sizes[-1])

    @torch.no_grad()
    def blocks(
        self,
        x: Float[Tensor, "*batch inputs"],
        flat: Tensor | None = None,
        live: int | None = None,
        block: int = passes.BLOCK,
    ) -> passes.Blocks:
        """A ``trace`` of many rows; ``live`` and ``block`` as for ``passes.Blocks``."""
        layers = self._frozen if flat is None else self.layers(flat)
        rows = self._rows(x, len(layers[0][0]))
        return passes.Blocks(rows, layers, self.tanh, self.sizes[-1], live, block)

    def tangent(
        self, x: Float[Tensor, "*batch inputs"], dx: Float[Tensor, "*batch inputs"]
    ) -> tuple[Float[Tensor, "*batch outputs"], Float[Tensor, "*batch outputs"]]:
        """Values and their derivative along ``dx``, by one forward pass (no double backward)."""
        y, dy = self._rows(x, self.flat.shape[0]), self._rows(dx, self.flat.shape[0])
        for i, (bias, weight) in enumerate(self.layers(self.flat)):
            if i > 0:
                y = activate(y, self.tanh)
                dy = dy * (1 - y * y) if self.tanh else dy * (y > 0)
            y, dy = torch.baddbmm(bias, y, weight), torch.bmm(dy, weight)
        return self._columns(y, x), self._columns(dy, x)

    @torch.no_grad()
    def rebase(self, shift: Float[Tensor, "S F"], factor: Float[Tensor, "S F"]) -> None:
        """Keep the function of x when its first F inputs become (x - shift) / factor."""
        bias, weight = self._frozen[0]
        first = weight[:, : shift.shape[1]]
        # Summed over a trailing axis: the same bits for a seed in any company.
        bias.add_((first * shift.unsqueeze(-1)).transpose(1, 2).contiguous().sum(-1).unsqueeze(1))
        first.mul_(factor.unsqueeze(-1))
