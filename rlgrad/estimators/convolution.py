"""Convolutional networks of S independent learners, one learner after another.

Convolutions cost arithmetic, not dispatch, so nothing is gained by evaluating learners together,
and a learner's bits cannot depend on its company. Gradients come from autograd.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from rlgrad.estimators.networks import Stack, padded

BLOCK = 1024  # rows of a learner whose activations are kept for the reverse pass
SMALLEST = 5  # pixels of a side


class Image(NamedTuple):
    """How a flattened observation is an image."""

    channels: int
    height: int
    width: int
    channels_last: bool
    """Whether it is ``[height, width, channels]``; else ``[channels, height, width]``."""
    factor: float
    """On pixels, such as 1 / 255."""


class Design(NamedTuple):
    """Convolutions and the layer behind them; every layer is followed by relu."""

    convolutions: tuple[tuple[int, int, int], ...]
    """(channels out, pixels of the square kernel's side, stride) of each."""
    dense: int
    """Units behind the convolutions."""
    source: str


NATURE = Design(
    ((32, 8, 4), (64, 4, 2), (64, 3, 1)), 512, "Mnih et al. 2015, doi:10.1038/nature14236"
)
SMALL = Design(((16, 3, 1),), 128, "Young & Tian 2019, arXiv:1903.03176")
LARGE = 36  # pixels of both sides from which NATURE's convolutions leave something


def design_of(image: Image) -> Design:
    """The Nature network for screens, MinAtar's for small grids."""
    return NATURE if min(image.height, image.width) >= LARGE else SMALL


def layers_of(image: Image, outputs: int) -> tuple[list[tuple[int, int]], int]:
    """((fan-in, units) of each layer, numbers between layers of one evaluation)."""
    design = design_of(image)
    channels, height, width = image[:3]
    used, between = [], 0
    for out, kernel, stride in design.convolutions:
        used.append((channels * kernel**2, out))
        height, width = ((side - kernel) // stride + 1 for side in (height, width))
        channels, between = out, between + out * height * width
    used += [(channels * height * width, design.dense), (design.dense, outputs)]
    return used, between + design.dense + outputs


class SeedConv(Stack):
    """S convolutional networks: relu convolutions, a relu layer, a linear head.

    Args:
        image: what the inputs are; they come flattened, of any type of number.
        outputs: numbers out.
        seeds: S.
        head_gain: scale of the initial last layer; 0 starts the network at zero.
    """

    def __init__(
        self, image: Image, outputs: int, seeds: int = 1, *, head_gain: float = 1.0
    ) -> None:
        used, _ = layers_of(image, outputs)
        self.image, self.design = image, design_of(image)
        shapes = [(fan_in, padded(out)) for fan_in, out in used]
        # Relu halves the power of what goes through it.
        super().__init__(used, shapes, seeds, head_gain, gain=math.sqrt(2))

    @property
    def width(self) -> int:
        """Units of the last hidden layer."""
        return self.design.dense

    def _pixels(self, x: Tensor) -> Tensor:
        """``[rows, inputs]`` -> ``[rows, channels, height, width]``, scaled."""
        channels, height, width, last, factor = self.image
        shape = (height, width, channels) if last else (channels, height, width)
        pixels = x.unflatten(1, shape)
        pixels = pixels.permute(0, 3, 1, 2) if last else pixels
        return pixels.to(self.flat.dtype) * factor

    def evaluate(self, x: Num[Tensor, "rows inputs"], flat: Tensor) -> tuple[Tensor, Tensor]:
        """(last hidden layer ``[rows, width]``, outputs ``[rows, padded]``) of one learner.

        Args:
            x: ``[rows, inputs]``.
            flat: ``[1, P]`` its parameters.
        """
        layers = [(bias[0, 0], weight[0]) for bias, weight in self.layers(flat)]
        y = self._pixels(x)
        for (bias, weight), (out, kernel, stride) in zip(
            layers, self.design.convolutions, strict=False
        ):
            kernels = weight.T.reshape(out, -1, kernel, kernel)
            y = nn.functional.conv2d(y, kernels, bias, stride).relu()
        (bias, weight), (head_bias, head) = layers[-2:]
        hidden = torch.addmm(bias, y.flatten(1), weight).relu()
        return hidden, torch.addmm(head_bias, hidden, head)

    def forward(
        self, x: Num[Tensor, "*batch inputs"], flat: Tensor | None = None
    ) -> Float[Tensor, "*batch outputs"]:
        """Evaluate all learners, with other parameters where ``flat`` ``[S, P]`` is given.

        Args:
            x: ``[S, ..., inputs]``; with one learner the leading axis may have any length.
            flat: ``[S, P]`` parameters instead of the network's own.
        """
        flat = self.flat if flat is None else flat
        each = [
            torch.cat([self.evaluate(part, row.unsqueeze(0))[1] for part in rows.split(BLOCK)])
            for rows, row in zip(self._grouped(x, len(flat)), flat, strict=True)
        ]
        return torch.stack(each)[..., : self.outputs].reshape(*x.shape[:-1], self.outputs)

    @torch.no_grad()
    def blocks(
        self,
        x: Num[Tensor, "*batch inputs"],
        flat: Tensor | None = None,
        live: int | None = None,
        block: int = BLOCK,
    ) -> ImageBlocks:
        """An evaluation whose reverse pass is at hand; arguments as for ``SeedMLP.blocks``."""
        flat = (self.flat if flat is None else flat).detach()
        return ImageBlocks(self, self._grouped(x, len(flat)), flat, live, block)

    def trace(self, x: Num[Tensor, "*batch inputs"], flat: Tensor | None = None) -> ImageBlocks:
        """``blocks`` of all rows together."""
        return self.blocks(x, flat, block=max(1, math.prod(x.shape[:-1])))


class ImageBlocks:
    """Outputs of rows ``[S, rows, inputs]`` with the gradients of parameters.

    Up to ``block`` rows of a learner, what lies between the layers is kept; of more rows, it is
    computed again block by block, so that memory does not grow with them.

    Args:
        network: of S learners.
        x: ``[S, rows, inputs]``.
        flat: ``[S, P]`` parameters; they must not move before the reverse pass.
        live: rows from this one on are left out: their outputs are 0.
        block: rows that are evaluated together.
    """

    def __init__(
        self,
        network: SeedConv,
        x: Num[Tensor, "S rows inputs"],
        flat: Float[Tensor, "S P"],
        live: int | None,
        block: int,
    ) -> None:
        rows = x.shape[1]
        count = max(1, rows if live is None else min(live, rows))
        self.network, self.flat, self.x = network, flat, x[:, :count]
        self.starts, self.block, keep = range(0, count, block), block, count <= block
        with torch.set_grad_enabled(keep):
            graphs = [[self._graph(s, start) for start in self.starts] for s in range(len(x))]
        self.kept = graphs if keep else None
        self.hidden = _joined([[part.hidden for part in each] for each in graphs], rows)
        """``[S, rows, width]`` of the last hidden layer, detached."""
        self.output = _joined([[part.output for part in each] for each in graphs], rows)
        """``[S, rows, padded]``, detached."""

    def _graph(self, s: int, start: int) -> _Graph:
        leaf = self.flat[s : s + 1].detach().requires_grad_(torch.is_grad_enabled())
        return _Graph(leaf, *self.network.evaluate(self.x[s, start : start + self.block], leaf))

    def parameters(self, gradient: Float[Tensor, "S rows out"]) -> Float[Tensor, "S P"]:
        """Gradients of the parameters, from those of the outputs, summed over rows."""
        rows = []
        for s, given in enumerate(gradient):
            parts = (self._part(s, i, given) for i in range(len(self.starts)))
            total = next(parts)
            for part in parts:
                total.add_(part)
            rows.append(total)
        return torch.cat(rows)

    @torch.enable_grad()
    def _part(self, s: int, i: int, gradient: Float[Tensor, "rows out"]) -> Tensor:
        start = self.starts[i]
        graph = self._graph(s, start) if self.kept is None else self.kept[s][i]
        part = gradient[start : start + len(graph.output)]
        inner = (graph.output[:, : part.shape[1]] * part).sum()
        (found,) = torch.autograd.grad(inner, graph.leaf, retain_graph=self.kept is not None)
        return found


class _Graph(NamedTuple):
    """One evaluation of a block of one learner's rows."""

    leaf: Tensor
    """``[1, P]``, the parameters to differentiate by."""
    hidden: Tensor
    output: Tensor


def _joined(parts: list[list[Tensor]], rows: int) -> Tensor:
    """Blocks of each learner as ``[S, rows, columns]``, with zeros behind them."""
    found = torch.stack([torch.cat(each).detach() for each in parts])
    missing = rows - found.shape[1]
    return nn.functional.pad(found, (0, 0, 0, missing)) if missing else found
