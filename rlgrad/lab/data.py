"""What all estimators are measured on: states, choices, credits and noise, row by row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlgrad.estimators import noise, one_hot
from rlgrad.estimators.base import Draw, Estimator, Objective
from rlgrad.lab.freeze import Frozen
from rlgrad.lab.sampling import Sample
from rlgrad.learner import Learner
from rlgrad.pullback import parameter_gradients

ROWS = 1 << 14  # of a block
NUMBERS = 1 << 24  # parameter gradients of a block, at most


@dataclass(frozen=True)
class Data:
    """The valid rows of n estimates, sorted by estimate; estimators see rows ``[1, rows, ...]``."""

    learner: Learner
    x: Float[Tensor, "1 rows F"]
    """Observations as the networks see them."""
    draw: Draw
    credit: Float[Tensor, "1 rows"]
    """In value scales, as the update sees it."""
    column: Int[Tensor, " rows"]
    """Which estimate a row is of."""
    time: Int[Tensor, " rows"]
    lane: Int[Tensor, " n"]
    """Which lane an estimate is of."""
    noise_seed: int

    @property
    def columns(self) -> int:
        """How many estimates there are."""
        return len(self.lane)

    @property
    def length(self) -> int:
        """The most rows of one estimate."""
        return int(self.time.max()) + 1

    @property
    def size(self) -> float:
        """Root mean square of the credits."""
        return max(float(self.credit.double().square().mean().sqrt()), 1e-12)

    @property
    def f(self) -> Objective | None:
        """The learned Q at these rows, differentiable in the relaxed action."""
        return self.learner.action_value(self.x)

    def rows(self, index: Tensor) -> Data:
        """Some rows, each an estimate of its own."""
        many = torch.arange(len(index))
        draw = Draw(*(x[:, index] for x in self.draw))
        x, credit = self.x[:, index], self.credit[:, index]
        return Data(
            self.learner, x, draw, credit, many, many * 0, self.lane[self.column[index]],
            self.noise_seed,
        )  # fmt: skip

    def some(self, columns: Tensor) -> Data:
        """Some estimates, in that order."""
        place = torch.full((self.columns,), -1)
        place[columns] = torch.arange(len(columns))
        index = (place[self.column] >= 0).nonzero().squeeze(1)
        index = index[place[self.column[index]].argsort(stable=True)]
        part = self.rows(index)
        return Data(
            self.learner, part.x, part.draw, part.credit, place[self.column[index]],
            self.time[index], self.lane[columns], self.noise_seed + 1 + int(columns[0]),
        )  # fmt: skip

    @property
    def mean_rows(self) -> float:
        """Rows of an estimate."""
        return len(self.column) / self.columns

    def blocks(self, multiple: int) -> list[Data]:
        """All estimates, a few at a time: as many as memory allows, a multiple of some number."""
        parameters = self.learner.policy.flat.shape[1]
        count = int(min(ROWS // self.mean_rows, NUMBERS // parameters))
        count = max(1, count // multiple) * multiple
        if count >= self.columns:
            return [self]
        return [self.some(each) for each in torch.arange(self.columns).split(count)]

    def noisy(self, estimator: Estimator) -> Draw:
        """The draw with as much noise as the estimator takes; the first of it is everyone's."""
        more = estimator.relaxations - 1
        if more < 1:
            return self.draw
        generator = torch.Generator().manual_seed(self.noise_seed)
        second = self.draw.second
        rest = noise.exponential((more, *second.shape), second, generator)
        return self.draw._replace(second=torch.cat([second.unsqueeze(0), rest]))

    def gradient(self, estimator: Estimator) -> Float[Tensor, "1 rows D A"]:
        """The estimator's gradient at the logits."""
        draw = self.noisy(estimator)
        return estimator.gradient(draw, self.credit, context=self.x, f=self.f)

    def grid(self, rows: Float[Tensor, "1 rows *rest"]) -> Float[Tensor, "1 T n *rest"]:
        """Rows at their time and estimate, zero where there are none."""
        whole = rows.new_zeros(self.length, self.columns, *rows.shape[2:])
        whole[self.time, self.column] = rows[0]
        return whole.unsqueeze(0)

    def pulled(self, u: Float[Tensor, "1 rows D A"]) -> Float[Tensor, "n P"]:
        """Each estimate's parameter gradient, summed over its rows."""
        x, grid = self.grid(self.x), self.grid(u)
        return parameter_gradients(self.learner.policy, x, grid, lanes=True)


def prepared(frozen: Frozen, sample: Sample, seed: int) -> Data:
    """Credit the actions of a sample and draw the noise that relaxations need.

    Args:
        frozen: with a critic that stands still by now.
        sample: from ``gather``.
        seed: of the noise.
    """
    learner, rollout = frozen.learner, sample.rollout
    seen = learner.see(torch.cat([rollout.observation, rollout.last.unsqueeze(1)], 1))
    with torch.no_grad():
        valued = None if learner.critic is None else learner.critic.network.trace(seen)
        credit, _ = learner.credit(rollout, valued)
        column, time = rollout.valid[0].t().nonzero().unbind(1)
        x = seen[:, time, column].contiguous()
        logits = learner.logits(rollout.observation[:, time, column])
        generator = torch.Generator().manual_seed(seed)
        second = noise.exponential(logits.shape, logits, generator)
    draw = Draw(logits, rollout.gumbel[:, time, column], second, rollout.action[:, time, column])
    return Data(learner, x, draw, credit[:, time, column], column, time, sample.lane, seed)


def chosen_actions(data: Data) -> Float[Tensor, "1 rows inputs"]:
    """What a critic of actions sees of each row: observation and one-hot choice."""
    return torch.cat([data.x, one_hot(data.draw).flatten(-2)], -1)
