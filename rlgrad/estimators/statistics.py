"""Weighted means and running means that are kept apart per seed."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rlgrad.estimators.arrays import in_numpy, native
from rlgrad.estimators.pooling import Batch


def seed_rows(x: Float[Tensor, "*batch"], seeds: int | None) -> Float[Tensor, "S rows"]:
    """Each seed's numbers as a row; refuses a batch whose first axis is not the seed.

    Raises:
        ValueError: where ``seeds`` is above one and the first axis has another length.
    """
    if seeds is not None and seeds > 1 and (x.ndim == 0 or x.shape[0] != seeds):
        raise ValueError(
            f"got a batch of shape {list(x.shape)} for {seeds} seeds; "
            f"the first axis must be the seed, of length {seeds}"
        )
    return x.reshape(seeds or 1, -1)


def live_rows(x: Tensor, seeds: int | None) -> int | None:
    """Rows of a seed up to the last that is not zero in some seed.

    None on a GPU, where asking would be a synchronisation.
    """
    if not in_numpy(x):
        return None
    rows = native(x).reshape(seeds or 1, -1)
    live = (rows != 0).any(0)
    return len(live) - int(live[::-1].argmax()) if live.any() else 0


def all_count(weight: Tensor) -> bool:
    """Whether it is known that every row counts; on a GPU nothing is, see ``live_rows``."""
    return in_numpy(weight) and bool(native(weight).all())


def per_seed_mean(
    x: Float[Tensor, "*batch"], weight: Tensor | None, seeds: int | None
) -> Float[Tensor, " S"]:
    """Mean over each seed's rows ``[S]``, counting only rows of weight 1.

    The sum runs over a trailing contiguous axis, which gives a seed the same bits in any company.
    """
    rows = seed_rows(x, seeds)
    if weight is None:
        return rows.mean(-1)
    w = weight.reshape(rows.shape).to(rows)
    return torch.where(w > 0, rows * w, 0.0).sum(-1) / w.sum(-1).clamp(min=1.0)


def row_share(
    like: Float[Tensor, "*batch"], weight: Tensor | None, seeds: int | None
) -> Float[Tensor, "*batch"]:
    """What each row contributes to ``weighted_mean``: 1 / its seed's count, or 0."""
    rows = seed_rows(like, seeds)
    w = torch.ones_like(rows) if weight is None else weight.reshape(rows.shape).to(like)
    return (w / w.sum(-1, keepdim=True).clamp(min=1.0)).reshape(like.shape)


def weighted_mean(
    x: Float[Tensor, "*batch"], weight: Tensor | None, seeds: int | None
) -> Float[Tensor, ""]:
    """The per-seed means, summed over seeds, so that every seed's gradient is its own."""
    return per_seed_mean(x, weight, seeds).sum()


def variance_loss(
    u: Float[Tensor, "*batch D A"],
    direction: Tensor | None,
    weight: Tensor | None,
    seeds: int | None,
) -> Float[Tensor, ""]:
    """Mean squared norm of estimates, for those that are linear in what is trained.

    Its gradient is that of 2 <v, u> with v = stop(u), or with v = ``direction`` for another norm:
    the mean of u does not depend on what is trained, so the squared norm stands for the variance.

    Args:
        u: ``[*batch, D, A]``, attached to the parameters that are trained.
        direction: ``[*batch, D, A]`` as for ``Estimator.loss``.
        weight: ``[*batch]`` as for ``Estimator.loss``.
        seeds: S.
    """
    inner = ((u.detach() if direction is None else direction) * u).sum((-2, -1))
    return weighted_mean(2 * inner - inner.detach(), weight, seeds)


class RunningMean(nn.Module):
    """Per-seed running mean of vectors, without bias towards its start.

    Args:
        width: numbers per vector.
        seeds: S.
        decay: weight of the past per update; 1 averages the whole past evenly.
    """

    mean: Tensor
    total: Tensor

    def __init__(self, width: int, seeds: int = 1, decay: float = 0.99) -> None:
        super().__init__()
        if not 0 < decay <= 1:
            raise ValueError(f"got decay {decay}; expected 0 < decay <= 1")
        self.decay = decay
        self.register_buffer("mean", torch.zeros(seeds, width))
        self.register_buffer("total", torch.zeros(seeds, 1))

    def update(self, x: Float[Tensor, "*batch width"], weight: Tensor | None = None) -> None:
        """Fold in a batch; a seed none of whose rows count keeps its mean."""
        self.take(self.batch(x, weight))

    def batch(self, x: Float[Tensor, "*batch width"], weight: Tensor | None = None) -> Batch:
        """What ``update`` learns of a batch: the mean ``[S, width]`` of the rows that count."""
        seeds, width = self.mean.shape
        rows = seed_rows(x[..., 0], seeds).shape[1]
        columns = x.reshape(seeds, rows, width).transpose(1, 2).contiguous()
        w = torch.ones_like(columns[:, :1]) if weight is None else weight.reshape(seeds, 1, -1)
        count = w.to(columns).sum(-1)
        mean = torch.where(w > 0, columns, 0.0).sum(-1) / count.clamp(min=1.0)
        return Batch((mean,), count.squeeze(1))

    def take(self, batch: Batch) -> None:
        """Fold in what ``batch`` gave."""
        assert batch.rows is not None
        (mean,), count = batch.numbers, batch.rows.unsqueeze(1)
        share = (count > 0).to(self.total) if self.decay < 1 else count.to(self.total)
        self.total.mul_(self.decay).add_(share)
        step = torch.where(count > 0, share / self.total.clamp(min=1e-12), 0.0)
        self.mean.add_(step * (mean.to(self.mean) - self.mean))

    def fold(self, x: Float[Tensor, "S width"], known: Bool[Tensor, "S 1"]) -> None:
        """Fold in one vector for each seed that is known; the others keep their mean."""
        total, mean, counts = native(self.total), native(self.mean), native(known)
        total *= self.decay
        total += counts
        step = counts / (total + ~counts)  # nothing is divided by a total that may be zero
        if not isinstance(step, Tensor):
            step = step.astype(mean.dtype)
        mean += step * (native(x.to(self.mean)) - mean)
