"""Forward and reverse passes of stacked perceptrons, written out.

On small networks autograd costs more than the arithmetic: its engine alone takes as long per call
as a whole layer. A ``Trace`` is one evaluation that remembers what its reverse pass needs; it takes
gradients at the outputs and returns those of parameters or inputs. Only operations that give a seed
the same bits in any company are used; ``tests/test_networks.py`` holds every pass to autograd's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from rlgrad.estimators.arrays import in_numpy
from rlgrad.estimators.layers import affine, hidden, outer, through

Layers = Sequence[tuple[Tensor, Tensor]]
"""(bias ``[S, 1, out]``, weight ``[S, in, out]``) of each layer."""

# Rows of a seed that are evaluated and reversed together: what lies between stays in the cache.
# A GPU takes all rows together, since there many small operations cost more than few large ones.
BLOCK = 512


def evaluate(x: Tensor, layers: Layers, tanh: bool) -> Tensor:
    """Outputs ``[S, rows, padded]`` of rows ``[S, rows, in]``."""
    for bias, weight in layers[:-1]:
        x = hidden(x, weight, bias, tanh)
    return affine(x, layers[-1][1], layers[-1][0])


def _padded(gradient: Tensor, columns: int) -> Tensor:
    missing = columns - gradient.shape[-1]
    if not missing:
        return gradient
    return torch.cat([gradient, gradient.new_zeros(*gradient.shape[:-1], missing)], -1)


def _joined(parts: list[Tensor], padding: int) -> Tensor:
    """Gradients of weight, bias, weight, ... from the last layer on, as rows of parameters."""
    rows = [part.flatten(1) for part in reversed(parts)]
    return torch.cat([*rows, rows[0].new_zeros(len(rows[0]), padding)], 1)


class Trace:
    """Outputs of rows ``[S, rows, in]`` with what the reverse pass needs.

    Args:
        x: ``[S, rows, in]``.
        layers: parameters; they must not move before the reverse pass.
        tanh: the activation; else relu.
        padding: numbers at the end of a row of parameters that belong to no layer.
    """

    def __init__(
        self, x: Float[Tensor, "S rows inputs"], layers: Layers, tanh: bool, padding: int
    ) -> None:
        self.layers, self.tanh, self.padding = layers, tanh, padding
        self.inputs = [x]
        for bias, weight in layers[:-1]:
            self.inputs.append(hidden(self.inputs[-1], weight, bias, tanh))
        self.output = affine(self.inputs[-1], layers[-1][1], layers[-1][0])
        """``[S, rows, padded]``."""

    def _down(self, gradient: Tensor, layer: int) -> Tensor:
        """Gradient at a layer's outputs -> at its inputs, before the activation below."""
        gradient = torch.bmm(gradient, self.layers[layer][1].transpose(1, 2))
        return through(gradient, self.inputs[layer], self.tanh) if layer else gradient

    def parameters(self, gradient: Float[Tensor, "S rows out"]) -> Float[Tensor, "S P"]:
        """Gradients of the parameters, from those of the outputs, summed over rows."""
        gradient, parts = _padded(gradient, self.output.shape[-1]), []
        for i in reversed(range(len(self.layers))):
            parts += [outer(self.inputs[i], gradient), gradient.sum(1)]
            gradient = self._down(gradient, i) if i else gradient
        return _joined(parts, self.padding)

    def rows(self, gradient: Float[Tensor, "S rows out"]) -> Float[Tensor, "S rows inputs"]:
        """Gradients of the inputs, row by row, from those of the outputs."""
        gradient = _padded(gradient, self.output.shape[-1])
        for i in reversed(range(len(self.layers))):
            gradient = self._down(gradient, i)
        return gradient

    def slope(self) -> Float[Tensor, "S rows inputs"]:
        """Gradients of the first output at the inputs, row by row: ``rows`` of ones."""
        last = len(self.layers) - 1
        gradient = self.layers[last][1][..., :1].mT.expand(-1, self.output.shape[1], -1)
        if last:
            gradient = through(gradient, self.inputs[last], self.tanh)
        for i in reversed(range(last)):
            gradient = self._down(gradient, i)
        return gradient


class Blocks:
    """A ``Trace`` of any number of rows, block by block; gradients of blocks are added in order.

    Args:
        x: ``[S, rows, in]``.
        layers: as for ``Trace``.
        tanh: as for ``Trace``.
        padding: as for ``Trace``.
        live: blocks that begin with this row or a later one are left out: their outputs are 0, and
            so must gradients there be. A sum is the same with and without them, bit for bit.
        block: rows of a block.
    """

    def __init__(
        self,
        x: Float[Tensor, "S rows inputs"],
        layers: Layers,
        tanh: bool,
        padding: int,
        live: int | None = None,
        block: int = BLOCK,
    ) -> None:
        rows = x.shape[1]
        block = block if in_numpy(x) else max(block, rows)
        self.starts = range(0, max(1, rows if live is None else min(live, rows)), block)
        self.block = rows if rows <= block else block
        self.traces = [Trace(self._part(x, i), layers, tanh, padding) for i in self.starts]
        self.output = self._joined([trace.output for trace in self.traces], rows)
        """``[S, rows, padded]``."""

    def _part(self, x: Tensor, start: int) -> Tensor:
        return x if self.block == x.shape[1] else x[:, start : start + self.block]

    def _joined(self, parts: list[Tensor], rows: int) -> Tensor:
        if len(parts) == 1 and parts[0].shape[1] == rows:
            return parts[0]
        S, done, columns = len(parts[0]), sum(part.shape[1] for part in parts), parts[0].shape[2]
        return torch.cat([*parts, parts[0].new_zeros(S, rows - done, columns)], 1)

    def parameters(self, gradient: Float[Tensor, "S rows out"]) -> Float[Tensor, "S P"]:
        """As ``Trace.parameters``."""
        total: Tensor | None = None
        for start, trace in zip(self.starts, self.traces, strict=True):
            part = trace.parameters(self._part(gradient, start))
            total = part if total is None else total.add_(part)
        assert total is not None
        return total

    def rows(self, gradient: Float[Tensor, "S rows out"]) -> Float[Tensor, "S rows inputs"]:
        """As ``Trace.rows``."""
        parts = [
            trace.rows(self._part(gradient, start))
            for start, trace in zip(self.starts, self.traces, strict=True)
        ]
        return self._joined(parts, gradient.shape[1])

    def slope(self) -> Float[Tensor, "S rows inputs"]:
        """As ``Trace.slope``."""
        return self._joined([trace.slope() for trace in self.traces], self.output.shape[1])


class TangentTrace:
    """The derivative of a ``Trace``'s outputs along ``dx``, and the reverse pass of both.

    Args:
        trace: the values.
        dx: ``[S, rows, in]``.
    """

    def __init__(self, trace: Trace, dx: Float[Tensor, "S rows inputs"]) -> None:
        self.trace, self.inputs = trace, [dx]
        self.slopes: list[Tensor] = []
        """Derivatives before the activation of each hidden layer."""
        for i, (_, weight) in enumerate(trace.layers[:-1]):
            self.slopes.append(torch.bmm(self.inputs[-1], weight))
            self.inputs.append(through(self.slopes[-1], trace.inputs[i + 1], trace.tanh))
        self.output = torch.bmm(self.inputs[-1], trace.layers[-1][1])
        """``[S, rows, padded]``."""

    def parameters(
        self, gradient: Float[Tensor, "S rows out"], slope: Float[Tensor, "S rows out"]
    ) -> Float[Tensor, "S P"]:
        """Gradients of the parameters from those at the values and at their derivatives."""
        trace, parts = self.trace, []
        gradient = _padded(gradient, trace.output.shape[-1])
        slope = _padded(slope, trace.output.shape[-1])
        for i in reversed(range(len(trace.layers))):
            product = torch.bmm(trace.inputs[i].transpose(1, 2), gradient)
            product.baddbmm_(self.inputs[i].transpose(1, 2), slope)
            parts += [product, gradient.sum(1)]
            if i > 0:
                gradient, slope = self._down(gradient, slope, i)
        return _joined(parts, trace.padding)

    def rows(
        self, gradient: Float[Tensor, "S rows out"], slope: Float[Tensor, "S rows out"]
    ) -> Float[Tensor, "S rows inputs"]:
        """Gradients of the inputs from those at the values and at their derivatives."""
        gradient = _padded(gradient, self.trace.output.shape[-1])
        slope = _padded(slope, self.trace.output.shape[-1])
        for i in reversed(range(len(self.trace.layers))):
            gradient, slope = self._down(gradient, slope, i)
        return gradient

    def _down(self, gradient: Tensor, slope: Tensor, i: int) -> tuple[Tensor, Tensor]:
        """Both gradients at a layer's outputs -> at its inputs, before the activation below."""
        trace = self.trace
        back = trace.layers[i][1].transpose(1, 2)
        gradient, slope = torch.bmm(gradient, back), torch.bmm(slope, back)
        if i == 0:
            return gradient, slope
        hidden = trace.inputs[i]
        if trace.tanh:  # the derivative 1 - h^2 depends on the value h too
            gradient = gradient - 2 * hidden * self.slopes[i - 1] * slope
        return through(gradient, hidden, trace.tanh), through(slope, hidden, trace.tanh)
