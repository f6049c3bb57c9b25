"""Critics: networks of one output fitted by regression, S seeds as one."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlgrad.adam import SeedAdam
from rlgrad.config import Config
from rlgrad.estimators.networks import SeedMLP
from rlgrad.estimators.passes import Blocks
from rlgrad.estimators.statistics import row_share


class Critic(nn.Module):
    """A perceptron that starts at zero, with its optimiser.

    Args:
        inputs: features in.
        config: widths, activation, Adam's decay.
        seeds: S.
    """

    def __init__(self, inputs: int, config: Config, seeds: int) -> None:
        super().__init__()
        self.network = SeedMLP(
            inputs, 1, config.hidden, seeds, activation=config.activation, head_gain=0.0
        )
        self.adam = SeedAdam(self.network.flat, beta2=config.adam_beta2)

    def forward(self, x: Float[Tensor, "S *batch inputs"]) -> Float[Tensor, "S *batch"]:
        """Predictions, differentiable by autograd."""
        return self.network(x).squeeze(-1)

    @torch.no_grad()
    def fit(
        self,
        x: Float[Tensor, "S *batch inputs"],
        target: Float[Tensor, "S *batch"],
        weight: Float[Tensor, "S *batch"],
        step_size: Float[Tensor, "S 1"],
        steps: int,
        trace: Blocks | None = None,
    ) -> None:
        """Full-batch steps on half the mean squared error of the rows that count.

        Args:
            x: inputs.
            target: of each row.
            weight: 1 for rows that count and 0 for others.
            step_size: per seed.
            steps: how many.
            trace: of the first step, where it is known.
        """
        rows = len(x), -1, 1
        goal = target.reshape(rows)
        share = row_share(target, weight, len(x)).reshape(rows)
        for _ in range(steps):
            trace = trace or self.network.blocks(x)
            error = (trace.output[..., :1] - goal) * share
            self.adam.step(self.network.flat, trace.parameters(error), step_size)
            trace = None
