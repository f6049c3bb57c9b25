"""Critics: networks of one output fitted by regression, S seeds as one."""

from __future__ import annotations

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from rlgrad.adam import SeedAdam
from rlgrad.config import Config
from rlgrad.estimators.convolution import Image, ImageBlocks
from rlgrad.estimators.networks import SeedMLP
from rlgrad.estimators.passes import Blocks, TangentTrace
from rlgrad.estimators.pooling import ALONE, Batch, Chain
from rlgrad.estimators.statistics import row_share
from rlgrad.images import make_network


class Critic(nn.Module):
    """A network that starts at zero, with its optimiser.

    Args:
        inputs: features in.
        config: widths, activation, Adam's decay.
        seeds: S.
        image: what the features are an image of; None: of nothing.
    """

    def __init__(self, inputs: int, config: Config, seeds: int, image: Image | None = None) -> None:
        super().__init__()
        self.network = make_network(inputs, 1, config, seeds, image, head_gain=0.0)
        self.adam = SeedAdam(self.network.flat, beta2=config.adam_beta2)

    def forward(self, x: Num[Tensor, "S *batch inputs"]) -> Float[Tensor, "S *batch"]:
        """Predictions, differentiable by autograd."""
        return self.network(x).squeeze(-1)

    @torch.no_grad()
    def fit(
        self,
        x: Num[Tensor, "S *batch inputs"],
        target: Float[Tensor, "S *batch"],
        weight: Float[Tensor, "S *batch"],
        step_size: Float[Tensor, "S 1"],
        steps: int,
        trace: Blocks | ImageBlocks | None = None,
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
        ALONE.together(self.fitting(x, target, weight, step_size, steps, trace))

    def fitting(
        self,
        x: Num[Tensor, "S *batch inputs"],
        target: Float[Tensor, "S *batch"],
        weight: Float[Tensor, "S *batch"],
        step_size: Float[Tensor, "S 1"],
        steps: int,
        trace: Blocks | ImageBlocks | None = None,
    ) -> Chain:
        """As ``fit``, of rows that may be spread over processes; each step waits for all."""
        rows = len(x), -1, 1
        goal = target.reshape(rows)
        share = row_share(target, weight, len(x)).reshape(rows)
        count = weight.flatten(1).sum(1)
        for _ in range(steps):
            trace = trace or self.network.blocks(x)
            error = (trace.output[..., :1] - goal) * share
            (gradient,) = (yield Batch((trace.parameters(error),), count)).numbers
            self.adam.step(self.network.flat, gradient, step_size)
            trace = None


class ActionValue:
    """Q(observation, relaxed action) of a critic at given observations, as estimators take f.

    Args:
        critic: of observations and flattened actions.
        x: ``[S, ..., F]`` seen observations.
    """

    def __init__(self, critic: Critic, x: Float[Tensor, "S *batch F"]) -> None:
        assert isinstance(critic.network, SeedMLP)
        self.critic, self.network, self.x = critic, critic.network, x

    def _inputs(self, action: Tensor) -> Tensor:
        return torch.cat([self.x, action.flatten(-2)], -1)

    def _at_action(self, gradient: Tensor, action: Tensor) -> Tensor:
        return gradient[..., self.x.shape[-1] :].reshape(action.shape)

    def __call__(self, choice: Float[Tensor, "*batch D A"]) -> Float[Tensor, "*batch"]:
        """Values, differentiable by autograd."""
        return self.critic(self._inputs(choice))

    @torch.no_grad()
    def slope(self, choice: Float[Tensor, "*batch D A"]) -> tuple[Tensor, Tensor]:
        """(values, their gradients at the choice)."""
        trace = self.network.blocks(self._inputs(choice))
        value = trace.output[..., 0].reshape(choice.shape[:-2])
        return value, self._at_action(trace.slope(), choice)

    @torch.no_grad()
    def along(
        self, choice: Float[Tensor, "*batch D A"], dx: Float[Tensor, "*batch D A"]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(values, gradients, derivatives of the values along dx, gradients of those)."""
        trace = self.network.trace(self._inputs(choice))
        moved = torch.cat([torch.zeros_like(self.x), dx.flatten(-2)], -1)
        tangent = TangentTrace(trace, moved.reshape(trace.inputs[0].shape))
        first, one = self._at_action(trace.slope(), choice), torch.ones_like(trace.output[..., :1])
        second = self._at_action(tangent.rows(torch.zeros_like(one), one), choice)
        value, slope = (
            y[..., 0].reshape(choice.shape[:-2]) for y in (trace.output, tangent.output)
        )
        return value, first, slope, second
