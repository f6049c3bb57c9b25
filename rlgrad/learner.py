"""Training of an agent: signal x estimator, S seeds as one. ``update`` is the whole algorithm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlgrad import diagnostics, returns
from rlgrad.adam import SeedAdam
from rlgrad.adapting import Adapting
from rlgrad.config import Config
from rlgrad.critics import ActionValue, Critic
from rlgrad.descent import estimator_steps, noted, policy_step
from rlgrad.estimators import build, one_hot
from rlgrad.estimators.base import Draw
from rlgrad.estimators.convolution import Image, ImageBlocks, SeedConv
from rlgrad.estimators.passes import Blocks, Trace
from rlgrad.estimators.pooling import ALONE, Batch, Chain, Pool
from rlgrad.estimators.statistics import RunningMean, live_rows
from rlgrad.images import context_of, make_network
from rlgrad.normalise import Normaliser, ReturnSpread
from rlgrad.preflight import check_needs, estimator_options
from rlgrad.pullback import direction
from rlgrad.rollout import Rollout
from rlgrad.streams import Purpose, Streams


class Learner(Adapting):
    """Policy, critics, estimator and optimisers for S seeds; every tensor's first axis is S.

    Args:
        config: hyperparameters.
        features: F, width of the flattened observation.
        actions: categories of each of the D factors of an action; (A,) for a Discrete space.
        seeds: S seeds, from which the initial parameters are drawn.
        scale: fixed factors on the F features; None: running normalisation.
        device: where everything lives.
        masked: whether observations carry the environment's action masks, D x A columns behind the
            F features, for the policy alone.
        image: what the F features are an image of, which convolutions see as it is; None: of
            nothing.
        pool: the processes that a rollout is spread over.
        lanes: of each seed that are this process's; None: all of the config's.
    """

    value_scale: Tensor

    def __init__(
        self,
        config: Config,
        features: int,
        actions: Sequence[int],
        seeds: Sequence[int],
        scale: Sequence[float] | None = None,
        device: torch.device | str = "cpu",
        masked: bool = False,
        image: Image | None = None,
        pool: Pool = ALONE,
        lanes: int | None = None,
    ) -> None:
        super().__init__()
        S, D, A = len(seeds), len(actions), max(actions)
        self.config, self.features, self.seeds, self.shape = config, features, S, (D, A)
        self.masked, self.pool = masked, pool
        self.policy = make_network(features, D * A, config, S, image, head_gain=0.01)
        valued = config.signal != "return-to-go"
        self.critic = Critic(features, config, S, image) if valued else None
        width = self.policy.width if isinstance(self.policy, SeedConv) else features
        self.action_critic = Critic(width + D * A, config, S) if config.action_critic else None
        self.estimator = build(config.estimator, D, A, width, S, **estimator_options(config))
        check_needs(config, self.estimator.traits)
        self.normaliser = Normaliser(S, features) if scale is None and image is None else None
        self._scale = None if scale is None else torch.tensor(scale, device=device)
        allowed = torch.arange(A) < torch.tensor(actions).unsqueeze(1)
        self._allowed = None if bool(allowed.all()) else allowed.to(device)
        self.register_buffer("value_scale", torch.full((S, 1), config.value_scale or 1.0))
        measured = config.value_scale == 0 and not config.normalize_rewards
        self.squares = RunningMean(1, S, 0.99) if measured else None
        spread = ReturnSpread(S, lanes or config.num_envs, config.gamma)
        self.spread = spread if config.normalize_rewards else None
        streams = Streams(seeds)
        for i, network in enumerate(self.networks()):
            width = network.flat.shape[1]
            network.initialise(streams.uniform(Purpose.INITIALISE, i, 1, width).squeeze(1))
        self.to(device)
        self.policy_adam = SeedAdam(self.policy.flat, beta2=config.adam_beta2)
        self.estimator_adams: Any = nn.ModuleList(
            SeedAdam(each, beta2=config.adam_beta2) for each in self.estimator.parameters()
        )

    @torch.no_grad()
    def update(
        self,
        rollout: Rollout,
        second: Tensor,
        share: Float[Tensor, "S 1"],
        critic_steps: int,
        measure: bool = False,
    ) -> dict[str, Tensor]:
        """One pass over one rollout: credit, gradient at the logits, then every network's step.

        Args:
            rollout: S seeds.
            second: ``[S, T, N, D, A]`` Exp(1) noise for relaxed estimators; see ``Draw.second``.
            share: ``[S, 1]`` of the full step sizes.
            critic_steps: full-batch steps of the critics.
            measure: whether to compute the numbers that are logged; changes no other bit.

        Returns:
            Logged numbers ``[S]`` by TensorBoard tag; empty unless ``measure``.
        """
        c, weight = self.config, rollout.valid.to(torch.float32)
        seen = self.see(torch.cat([rollout.observation, rollout.last.unsqueeze(1)], 1))
        x = seen[:, :-1].contiguous()
        valued = None if self.critic is None else self.critic.network.blocks(seen)
        credit, target = self.credit(rollout, valued)
        policy = self.policy.blocks(x, live=live_rows(weight, self.seeds))
        logits = self._as_logits(policy.output, rollout.observation)
        draw = Draw(logits, rollout.gumbel, second, rollout.action)
        context = context_of(self.policy, x, valued, policy)
        f = self.action_value(context)
        u = self.estimator.gradient(draw, credit, context=context, f=f)
        numbers = {}
        if measure:
            fitted, varied = valued is not None, self.estimator.traits.control_variate
            told = self.policy, x, draw, credit, u, weight, varied, self.pool
            numbers = diagnostics.update_numbers(*told)
            if fitted:
                numbers |= diagnostics.critic_numbers(credit, target, weight, self.pool)
        along = u
        if self.estimator.descends_variance:
            along = direction(c.objective, self.policy, x, u * weight[..., None, None], self.pool)
        logged: dict[str, Tensor] = {}
        moments: list[Batch] = []
        rate = share * c.learning_rate
        self.pool.together(
            policy_step(
                self.policy.flat, self.policy_adam, c, policy, logits, u, weight, rate, logged
            ),
            self._critic_steps(seen, target, weight, share, critic_steps, valued),
            self._estimator_steps(draw, credit, context, along, weight, share, critic_steps),
            *(noted(batch, moments) for batch in self.moments(rollout, target)),
        )
        self.take(moments)
        return {**numbers, **logged} if measure else {}

    def _critic_steps(
        self,
        seen: Tensor,
        target: Tensor,
        weight: Tensor,
        share: Tensor,
        steps: int,
        valued: Blocks | ImageBlocks | None,
    ) -> Chain:
        """Fit the critic, if there is one, to what was seen ``[S, T + 1, N, F]``."""
        if self.critic is not None:
            beyond = torch.zeros_like(target[:, :1])  # the last row has no step
            goal, counts = torch.cat([target, beyond], 1), torch.cat([weight, beyond], 1)
            rate = share * self.config.critic_learning_rate
            yield from self.critic.fitting(seen, goal, counts, rate, steps, valued)

    def _estimator_steps(
        self,
        draw: Draw,
        credit: Tensor,
        x: Tensor,
        along: Tensor,
        weight: Tensor,
        share: Tensor,
        steps: int,
    ) -> Chain:
        """Fit the critic of relaxed actions, then what is made of it, then running statistics."""
        c = self.config
        if self.action_critic is not None:
            chosen = torch.cat([x, one_hot(draw).flatten(-2)], -1)
            inputs, goal, counts = (each[:, :: c.thinning] for each in (chosen, credit, weight))
            step_size = share * c.critic_learning_rate
            yield from self.action_critic.fitting(inputs, goal, counts, step_size, steps)
        adams, rate = list(self.estimator_adams), share * c.estimator_learning_rate
        f = self.action_value(x[:, :: c.thinning])
        yield from estimator_steps(
            self.estimator, adams, c, draw, credit, x, f, along, weight, rate
        )
        yield from self.estimator.observing(draw, credit, context=x, weight=weight)

    def action_value(self, x: Float[Tensor, "S *batch F"]) -> ActionValue | None:
        """The critic of relaxed actions at contexts, the differentiable f of an agent."""
        return None if self.action_critic is None else ActionValue(self.action_critic, x)

    def credit(
        self, rollout: Rollout, valued: Blocks | ImageBlocks | Trace | None
    ) -> tuple[Tensor, Tensor]:
        """(credit of each action, target of the critic) ``[S, T, N]``, in value scales."""
        c, scale = self.config, self.value_scale.unsqueeze(-1)
        reward = rollout.reward / scale
        if c.reward_clip:
            reward = rollout.reward.clamp(-c.reward_clip, c.reward_clip) / scale
        if self.spread is not None:
            bound = self.spread.bound().to(reward).unsqueeze(-1)
            reward = reward.clamp(-bound, bound)
        if valued is None or self.critic is None:
            credit = returns.return_to_go(reward, rollout.terminated | rollout.truncated, c.gamma)
            return credit, credit
        S, T, N = reward.shape
        value = valued.output[..., 0].reshape(S, T + 1, N)
        following = value[:, 1:]
        if rollout.final is not None:
            ended = self.critic(self.see(rollout.final))
            following = torch.where(rollout.truncated, ended, following)
        flags = reward, value[:, :-1], following, rollout.terminated, rollout.truncated
        if c.signal == "gae":
            credit = returns.gae(*flags, c.gamma, c.gae_lambda)
        else:
            credit = returns.n_step(*flags, c.gamma, c.n_step)
        return credit, credit + value[:, :-1]
