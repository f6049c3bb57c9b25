"""Training of an agent: signal x estimator, S seeds as one. ``update`` is the whole algorithm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlgrad import diagnostics, returns
from rlgrad.acting import Acting
from rlgrad.adam import SeedAdam
from rlgrad.config import Config
from rlgrad.critics import ActionValue, Critic
from rlgrad.estimators import build, one_hot
from rlgrad.estimators.base import Draw
from rlgrad.estimators.convolution import Image, ImageBlocks, SeedConv
from rlgrad.estimators.networks import SeedMLP, Stack
from rlgrad.estimators.passes import Blocks, Trace
from rlgrad.estimators.statistics import RunningMean, live_rows
from rlgrad.images import context_of, make_network
from rlgrad.normalise import Normaliser, ReturnSpread
from rlgrad.preflight import check_needs, estimator_options
from rlgrad.pullback import direction
from rlgrad.rollout import Rollout
from rlgrad.streams import Purpose, Streams


class Learner(Acting):
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
    ) -> None:
        super().__init__()
        S, D, A = len(seeds), len(actions), max(actions)
        self.config, self.features, self.seeds, self.shape = config, features, S, (D, A)
        self.masked = masked
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
        spread = ReturnSpread(S, config.num_envs, config.gamma)
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

    def networks(self) -> list[Stack]:
        """Policy, critics and the estimator's own; perceptrons see the observation first."""
        return [module for module in self.modules() if isinstance(module, Stack)]

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
            numbers = diagnostics.update_numbers(self.policy, x, draw, credit, u, weight, varied)
            numbers |= diagnostics.critic_numbers(credit, target, weight) if fitted else {}
        along = u
        if self.estimator.descends_variance:
            along = direction(c.objective, self.policy, x, u * weight[..., None, None])
        norm = self._step_policy(policy, logits, u, weight, share * c.learning_rate)
        if measure:
            numbers["gradient/norm"] = norm
        step_size = share * c.critic_learning_rate
        if self.critic is not None:
            beyond = torch.zeros_like(rollout.last[..., 0]).unsqueeze(1)  # the last row has no step
            goal, counts = torch.cat([target, beyond], 1), torch.cat([weight, beyond], 1)
            self.critic.fit(seen, goal, counts, step_size, critic_steps, valued)
        if self.action_critic is not None:
            chosen = torch.cat([context, one_hot(draw).flatten(-2)], -1)
            inputs, goal, counts = (each[:, :: c.thinning] for each in (chosen, credit, weight))
            self.action_critic.fit(inputs, goal, counts, step_size, critic_steps)
        self._step_estimator(
            draw, credit, context, along, weight, share * c.estimator_learning_rate
        )
        self.estimator.observe(draw, credit, context=context, weight=weight)
        self.adapt(rollout, target)
        return numbers

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

    def adapt(self, rollout: Rollout, target: Tensor) -> None:
        """Renew running statistics, after all steps, and rebase the networks to keep functions."""
        if self.normaliser is not None:
            perceptrons = [each for each in self.networks() if isinstance(each, SeedMLP)]
            seen = rollout.observation[..., : self.features]
            self.normaliser.update(seen, rollout.valid, perceptrons)
        scale = self._measured_scale(rollout, target)
        if scale is None:
            return
        factor = self.value_scale / scale
        for critic in (self.critic, self.action_critic):
            if critic is not None:
                critic.network.rescale(factor)
        self.estimator.rescale(factor)
        self.value_scale.copy_(scale)

    def _measured_scale(self, rollout: Rollout, target: Tensor) -> Float[Tensor, "S 1"] | None:
        """The value scale after a rollout; None: it is the card's, for ever."""
        if self.spread is not None:
            done = rollout.terminated | rollout.truncated
            whole = self.config.signal == "return-to-go"
            self.spread.update(rollout.reward, done, rollout.valid, whole)
            return self.spread.deviation().to(self.value_scale)
        if self.squares is None:
            return None
        raw = target * self.value_scale.unsqueeze(-1)
        self.squares.update((raw * raw).unsqueeze(-1), rollout.valid)
        return self.squares.mean.sqrt().clamp(min=1e-8)

    def _step_policy(
        self,
        policy: Blocks | ImageBlocks,
        logits: Tensor,
        u: Tensor,
        weight: Tensor,
        step_size: Tensor,
    ) -> Tensor:
        """Ascend the mean of u over valid rows; returns each seed's gradient norm ``[S]``."""
        ascent = u
        if self.config.entropy_coef:
            ascent = u + self.config.entropy_coef * diagnostics.entropy_slope(logits)
        count = weight.flatten(1).sum(1).clamp(min=1.0).view(-1, 1, 1, 1, 1)
        descent = -(ascent * weight[..., None, None]) / count
        gradient = policy.parameters(descent.reshape(*policy.output.shape[:2], -1))
        norm = (gradient * gradient).sum(-1).sqrt()
        if self.config.max_grad_norm:
            # A norm that overflows would be clipped to a step of 0, and nobody would know.
            known = norm.where(norm.isfinite(), torch.nan)
            gradient = gradient * (self.config.max_grad_norm / known).clamp(max=1.0).unsqueeze(1)
        self.policy_adam.step(self.policy.flat, gradient, step_size)
        return norm

    def _step_estimator(
        self,
        draw: Draw,
        credit: Tensor,
        x: Tensor,
        along: Tensor,
        weight: Tensor,
        step_size: Tensor,
    ) -> None:
        """Train the estimator's own parameters, after its gradient: before would bias it."""
        parameters = list(self.estimator.parameters())
        if not parameters:
            return
        if self.config.thinning > 1:
            given = *draw, credit, x, along, weight
            *drawn, credit, x, along, weight = (each[:, :: self.config.thinning] for each in given)
            draw = Draw(*drawn)
        f = self.action_value(x)
        for i in range(self.config.estimator_steps):
            # The first step knows the direction; later ones take that of the moved parameters.
            known = along if i == 0 or self.config.objective != "logits" else None
            gradients = self.estimator.loss_gradients(
                draw, credit, context=x, f=f, direction=known, weight=weight
            )
            for parameter, gradient, adam in zip(
                parameters, gradients, self.estimator_adams, strict=True
            ):
                adam.step(parameter, gradient, step_size)
