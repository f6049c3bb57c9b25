"""Weights fitted to the past by least squares, and used as far as they carry over."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rlgrad.estimators.arrays import in_numpy
from rlgrad.estimators.statistics import RunningMean


def eliminated(
    matrix: Float[Tensor, "S K K"], right: Float[Tensor, "S K 1"]
) -> tuple[Float[Tensor, "S K"], Bool[Tensor, " S"]]:
    """Solutions for positive definite matrices, and which matrices are that.

    Gauss-Jordan elimination in a number of operations that depends on K alone. Nothing waits for
    the device and no solver library is called, which may refuse to be captured in a CUDA graph.

    Args:
        matrix: ``[S, K, K]``; without pivoting, which positive definite matrices do not need.
        right: ``[S, K, 1]``.
    """
    table = torch.cat([matrix, right], 2)
    for k in range(matrix.shape[1]):
        row = table[:, k : k + 1, k + 1 :] / table[:, k : k + 1, k : k + 1]
        for others in (slice(0, k), slice(k + 1, None)):
            table[:, others, k + 1 :].addcmul_(table[:, others, k : k + 1], row, value=-1)
        table[:, k : k + 1, k + 1 :] = row
    good = (table.diagonal(dim1=1, dim2=2) > 0).all(1)  # of the pivots; not a number is not good
    return table[..., -1], good


class LeastSquares(nn.Module):
    """Weights of K columns, fitted to the past and scaled by what they did since.

    Args:
        columns: K.
        seeds: S.
        decay: weight of the past per batch.
        ridge: shrinkage, relative to the columns' mean square.
    """

    weights: Tensor

    def __init__(self, columns: int, seeds: int, decay: float, ridge: float) -> None:
        super().__init__()
        self.columns, self.ridge = columns, ridge
        self.gram = RunningMean(columns * columns, seeds, decay)
        self.cross = RunningMean(columns, seeds, decay)
        self.outcome = RunningMean(2, seeds, decay)
        self.register_buffer("weights", torch.zeros(seeds, columns))

    def share(self) -> Float[Tensor, "S 1"]:
        """How much of the weights is used, 0 to 1: the scale that would have been best so far."""
        agreement, size = self.outcome.mean.split(1, dim=1)
        return (agreement / size.clamp(min=1e-30)).clamp(0.0, 1.0)

    @torch.no_grad()
    def fit(
        self,
        gram: Float[Tensor, "S K K"],
        cross: Float[Tensor, "S K"],
        size: Float[Tensor, " S"],
    ) -> None:
        """Judge the weights on a batch that they have not seen, then fold it in and fit anew.

        Args:
            gram: ``[S, K, K]`` products of the columns, summed over the batch.
            cross: ``[S, K]`` products of the columns with the target.
            size: ``[S]`` square of the target; a seed where it is zero keeps what it has.
        """
        # In units of the batch's own mean square: noisy batches count less.
        known = (size > 0).unsqueeze(1)
        unit = known / size.clamp(min=1e-30).unsqueeze(1)
        gram, cross = gram * unit.unsqueeze(2), cross * unit
        moved = torch.bmm(self.weights.to(gram).unsqueeze(1), gram).squeeze(1)
        outcome = (self.weights.unsqueeze(1) * torch.stack([cross, moved], 1)).sum(-1)
        self.outcome.fold(outcome, known & (self.gram.total > 0))
        self.gram.fold(gram.flatten(1), known)
        self.cross.fold(cross, known)
        self._solve()

    def _solve(self) -> None:
        gram = self.gram.mean.unflatten(1, (self.columns, self.columns))
        scale = gram.diagonal(dim1=1, dim2=2).mean(-1).clamp(min=1e-30)
        matrix = gram / scale[:, None, None]
        matrix.diagonal(dim1=1, dim2=2).add_(self.ridge)
        right = (self.cross.mean / scale.unsqueeze(1)).unsqueeze(-1)
        if in_numpy(matrix):
            factor, failed = torch.linalg.cholesky_ex(matrix)
            solved, good = torch.cholesky_solve(right, factor).squeeze(-1), failed == 0
        else:
            solved, good = eliminated(matrix, right)
        self.weights.copy_(torch.where(good.unsqueeze(1), solved, 0.0))

    @torch.no_grad()
    def rescale(self, factor: Float[Tensor, "S 1"]) -> None:
        """Targets will come multiplied by ``factor``."""
        self.weights.mul_(factor)
        self.cross.mean.div_(factor)
        self.gram.mean.div_(factor * factor)
