"""An estimator of one's own: (value - linear baseline) x score, in one file.

rlgrad train CartPole-v1 --agent reinforce --estimator linear_baseline:LinearBaseline
rlgrad variance bandit --estimators constant,linear_baseline:LinearBaseline
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from rlgrad.estimators import Draw, Estimator, Traits
from rlgrad.estimators.base import Objective, score
from rlgrad.estimators.statistics import RunningMean, seed_rows


class LinearBaseline(Estimator):
    """(f(b) - w·[1, x, x²]) x score, with w fitted to earlier values by least squares.

    Args:
        factors: D.
        categories: A.
        context: C features x of the state; without any, the baseline is a constant.
        seeds: S.
        decay: weight of the past per batch.
    """

    traits = Traits(unbiased=True, context=True)
    source = "Duan, Chen, Houthooft, Schulman & Abbeel 2016, arXiv:1604.06778 (linear baseline)"

    def __init__(
        self,
        factors: int,
        categories: int,
        context: int = 0,
        seeds: int | None = None,
        *,
        decay: float = 0.9,
    ) -> None:
        super().__init__(factors, categories, context, seeds)
        columns = 1 + 2 * context
        self.products = RunningMean(columns**2, seeds or 1, decay)
        self.targets = RunningMean(columns, seeds or 1, decay)

    def _columns(self, value: Tensor, context: Tensor | None) -> Float[Tensor, "S rows K"]:
        one = torch.ones_like(seed_rows(value, self.seeds)).unsqueeze(-1)
        x = one[..., :0] if context is None else context.reshape(*one.shape[:2], -1).to(one)
        return torch.cat([one, x, x * x], -1)

    def _weights(self) -> Float[Tensor, "S K 1"]:
        matrix = self.products.mean.unflatten(-1, (self.targets.mean.shape[1], -1))
        ridge = 1e-3 * torch.eye(matrix.shape[-1]).to(matrix)
        return torch.linalg.solve(matrix + ridge, self.targets.mean.unsqueeze(-1))

    @torch.no_grad()
    def gradient(
        self,
        draw: Draw,
        value: Float[Tensor, "*batch"],
        *,
        context: Tensor | None = None,
        f: Objective | None = None,
    ) -> Float[Tensor, "*batch D A"]:
        """``[*batch, D, A]``; see ``Estimator.gradient``."""
        columns = self._columns(value, context)
        baseline = (columns * self._weights().mT.to(columns)).sum(-1).reshape(value.shape)
        return (value - baseline)[..., None, None] * score(draw)

    @torch.no_grad()
    def observe(
        self,
        draw: Draw,
        value: Float[Tensor, "*batch"],
        *,
        context: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> None:
        """Fold in a batch: it is called after ``gradient``, so w never saw what it judges."""
        columns = self._columns(value, context)
        counts = None if weight is None else weight.reshape(columns.shape[:2])
        products = (columns.unsqueeze(-1) * columns.unsqueeze(-2)).flatten(-2)
        self.products.update(products, counts)
        values = seed_rows(value, self.seeds).unsqueeze(-1)
        self.targets.update(columns * values, counts)

    def rescale(self, factor: Float[Tensor, "S 1"]) -> None:
        """Values will come multiplied by ``factor``."""
        self.targets.mean.mul_(factor)


if __name__ == "__main__":
    import rlgrad

    names = ["reinforce", "constant", "__main__:LinearBaseline"]
    for row in rlgrad.variance("bandit", names, draws=20_000).results:
        if not row.variant:
            print(f"{row.label:15s} bias {row.bias:.4f} z {row.z:.1f} variance {row.variance:.3f}")
