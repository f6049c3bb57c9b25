"""What a linear control variate has weights for: features of the context, entries of the choice.

Of many choices it weighs fixed random mixtures, and of a wide context a fixed random projection, so
that there are never many columns.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlgrad.errors import UsageError
from rlgrad.estimators.layers import activate
from rlgrad.estimators.networks import padded
from rlgrad.estimators.statistics import seed_rows

LARGEST = 2048  # columns; the moments are its square, per seed
PROJECTED = 64  # features that are left of a context with too many
# Weights of q beyond which choices are mixed, and the mixtures that there are at least.
WEIGHED, LEAST = 72, 8


class Columns(nn.Module):
    """What c of ``LinearRelax`` sees, and how its weights are divided between V and q.

    Nothing here is trained.

    Args:
        factors: D.
        categories: A.
        context: C, features x.
        width: random features of the context in V.
        seeds: S; None: one learner.

    Raises:
        UsageError: where there would be too many columns all the same.
    """

    expansion: Tensor
    projection: Tensor | None
    mixing: Tensor | None

    def __init__(
        self, factors: int, categories: int, context: int, width: int, seeds: int | None
    ) -> None:
        super().__init__()
        self.factors, self.categories, self.context = factors, categories, context
        self.seeds = seeds
        width = padded(width) if context else 0
        self.plain, self.count = 1 + context, self._divide(1 + context, width)
        narrow = self.count > LARGEST and context > PROJECTED
        if narrow:
            self.plain, self.count = 1 + PROJECTED, self._divide(1 + PROJECTED, width)
        if self.count > LARGEST:
            raise UsageError(
                f"relax-linear would fit {self.count:,} weights for {factors} x {categories} "
                f"choices, {context} features and width {width}; expected at most {LARGEST:,}: "
                "give it a smaller width, or use relax, a network (--agent relax-network)"
            )
        generator = torch.Generator().manual_seed(0)
        random = torch.randn(self.plain, width, generator=generator)
        self.register_buffer("expansion", random, persistent=False)  # the same for every seed
        mixed = torch.randn(context, PROJECTED, generator=generator) / math.sqrt(max(context, 1))
        self.register_buffer("projection", mixed if narrow else None, persistent=False)
        mixed = torch.randn(factors, categories, self.entries, generator=generator)
        many = self.entries < factors * categories
        self.register_buffer("mixing", mixed / math.sqrt(factors) if many else None, False)

    def _divide(self, plain: int, width: int) -> int:
        """Set how columns are divided between V and q; returns how many there are."""
        self.entries = min(self.factors * self.categories, max(LEAST, WEIGHED // plain // 4 * 4))
        """Of the choice, or mixtures of them, that q has weights for: E."""
        # Widths are multiples of 4, so that a seed gets the same bits in any company.
        self.padded = padded(plain)
        self.state = self.padded + width
        # Features that q is linear in, with as many zeros as make a multiple of 4 of its weights.
        self.read = next(n for n in range(plain, self.padded + 1) if n * self.entries % 4 == 0)
        return self.state + self.read * self.entries

    def features(self, context: Tensor | None, like: Tensor) -> Float[Tensor, "S rows J"]:
        """[1, x, 0 .., tanh(W x + w)] of each seed's rows."""
        rows = seed_rows(like, self.seeds).unsqueeze(-1)
        x = torch.ones_like(rows)
        if self.context and context is not None:
            given = context.reshape(*rows.shape[:2], -1).to(like)
            if self.projection is not None:
                mixed = self.projection.to(like).expand(len(rows), -1, -1).contiguous()
                given = torch.bmm(given, mixed)
            x = torch.cat([x, given], -1)
        weight = self.expansion.to(like).expand(len(rows), -1, -1).contiguous()
        none = x.new_zeros(*x.shape[:2], self.padded - self.plain)
        return torch.cat([x, none, activate(torch.bmm(x, weight), tanh=True)], -1)

    def by_seed(self, x: Tensor) -> Tensor:
        """Numbers of choices as ``[S, rows, D, A]`` where choices are mixed, else as they are."""
        if self.mixing is None:
            return x
        return x.reshape(self.seeds or 1, -1, self.factors, self.categories)

    def mixed(self, y: Tensor) -> Tensor:
        """The choice as q sees it: mixtures of each factor's categories ``[S, rows, D, E]``."""
        if self.mixing is None:
            return y
        y = self.by_seed(y).transpose(1, 2)  # a product for each seed, which keeps its bits
        S, D, rows, A = y.shape
        weight = self.mixing.to(y).repeat(S, 1, 1)
        return torch.bmm(y.reshape(S * D, rows, A), weight).view(S, D, rows, -1).transpose(1, 2)
