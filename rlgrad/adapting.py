"""What of a learner follows the data without a gradient: running statistics and value scales."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from rlgrad.acting import Acting
from rlgrad.config import Config
from rlgrad.critics import Critic
from rlgrad.estimators import Estimator
from rlgrad.estimators.networks import SeedMLP, Stack
from rlgrad.estimators.pooling import Batch, Pool
from rlgrad.estimators.statistics import RunningMean
from rlgrad.normalise import ReturnSpread
from rlgrad.rollout import Rollout


class Adapting(Acting):
    """How a learner's scales follow its rollouts; what they are is set by who derives from it.

    Attributes:
        config: hyperparameters.
        pool: the processes that a rollout is spread over.
        critic: of values; None: there is none.
        action_critic: of relaxed actions; None: there is none.
        estimator: whose control variates are in value scales.
        spread: of discounted returns, where rewards are normalised.
        squares: mean square of the critic's targets, where the value scale is measured by it.
    """

    config: Config
    pool: Pool
    critic: Critic | None
    action_critic: Critic | None
    estimator: Estimator
    spread: ReturnSpread | None
    squares: RunningMean | None

    def networks(self) -> list[Stack]:
        """Policy, critics and the estimator's own; perceptrons see the observation first."""
        return [module for module in self.modules() if isinstance(module, Stack)]

    def adapt(self, rollout: Rollout, target: Tensor) -> None:
        """Renew running statistics, after all steps, and rebase the networks to keep functions."""
        self.take([self.pool.pooled(batch) for batch in self.moments(rollout, target)])

    def moments(self, rollout: Rollout, target: Tensor) -> list[Batch]:
        """What running statistics learn of a rollout, for ``take``."""
        found = []
        if self.normaliser is not None:
            seen = rollout.observation[..., : self.features]
            found.append(self.normaliser.batch(seen, rollout.valid))
        if self.spread is not None:
            done = rollout.terminated | rollout.truncated
            whole = self.config.signal == "return-to-go"
            found.append(self.spread.batch(rollout.reward, done, rollout.valid, whole))
        elif self.squares is not None:
            raw = target * self.value_scale.unsqueeze(-1)
            found.append(self.squares.batch((raw * raw).unsqueeze(-1), rollout.valid))
        return found

    def take(self, moments: Sequence[Batch]) -> None:
        """Renew running statistics, and rebase the networks to keep their functions."""
        left = list(moments)
        if self.normaliser is not None:
            perceptrons = [each for each in self.networks() if isinstance(each, SeedMLP)]
            self.normaliser.take(left.pop(0), perceptrons)
        if not left:
            return
        scale = self._measured_scale(left.pop())
        factor = self.value_scale / scale
        for critic in (self.critic, self.action_critic):
            if critic is not None:
                critic.network.rescale(factor)
        self.estimator.rescale(factor)
        self.value_scale.copy_(scale)

    def _measured_scale(self, batch: Batch) -> Float[Tensor, "S 1"]:
        """The value scale after a rollout, where it is measured."""
        if self.spread is not None:
            self.spread.take(batch)
            return self.spread.deviation().to(self.value_scale)
        assert self.squares is not None
        self.squares.take(batch)
        return self.squares.mean.sqrt().clamp(min=1e-8)
