"""Training of an agent: signal x estimator, S seeds as one. ``update`` is the whole algorithm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlgrad import diagnostics, returns
from rlgrad.acting import Forward
from rlgrad.adam import SeedAdam
from rlgrad.config import Config
from rlgrad.errors import UsageError
from rlgrad.estimators import build
from rlgrad.estimators.base import Draw, inner
from rlgrad.estimators.networks import SeedMLP
from rlgrad.estimators.statistics import RunningMean, weighted_mean
from rlgrad.normalise import Normaliser
from rlgrad.preflight import estimator_options
from rlgrad.pullback import direction
from rlgrad.rollout import Rollout
from rlgrad.streams import Purpose, Streams


class Learner(nn.Module):
    """Policy, critic, estimator and optimisers for S seeds; every tensor's first axis is S.

    Args:
        config: hyperparameters.
        features: F, width of the flattened observation.
        actions: A.
        seeds: S seeds, from which the initial parameters are drawn.
        scale: fixed factors on the F features; None: running normalisation.
        device: where everything lives.
    """

    value_scale: Tensor

    def __init__(
        self,
        config: Config,
        features: int,
        actions: int,
        seeds: Sequence[int],
        scale: Sequence[float] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        S = len(seeds)
        self.config, self.features, self.actions, self.seeds = config, features, actions, S
        self.policy = SeedMLP(
            features, actions, config.hidden, S, activation=config.activation, head_gain=0.01
        )
        self.critic = (
            None
            if config.signal == "return-to-go"
            else SeedMLP(features, 1, config.hidden, S, activation=config.activation, head_gain=0.0)
        )
        self.estimator = build(
            config.estimator, 1, actions, features, S, **estimator_options(config)
        )
        traits = self.estimator.traits
        if traits.values > 1 or traits.enumerable or traits.differentiable:
            raise UsageError(
                f"estimator {config.estimator} needs more of f than its value at the action taken, "
                "and an environment gives no more: use reinforce, learned or relax"
            )
        self.normaliser = Normaliser(S, features) if scale is None else None
        self._scale = None if scale is None else torch.tensor(scale, device=device)
        self.register_buffer("value_scale", torch.full((S, 1), config.value_scale or 1.0))
        self.squares = RunningMean(1, S, 0.99) if config.value_scale == 0 else None
        streams = Streams(seeds)
        for i, network in enumerate(self.networks()):
            width = network.flat.shape[1]
            network.initialise(streams.uniform(Purpose.INITIALISE, i, 1, width).squeeze(1))
        self.to(device)
        on_cpu = self.policy.flat.is_cpu
        self._forward: Any = Forward(self.policy) if on_cpu else self.policy
        self.policy_adam = self._adam(self.policy.flat)
        self.critic_adam = None if self.critic is None else self._adam(self.critic.flat)
        adams = [self._adam(p) for p in self.estimator.parameters()]
        self.estimator_adams: Any = nn.ModuleList(adams)

    def networks(self) -> list[SeedMLP]:
        """Policy, critic and the estimator's own; all see the observation first."""
        return [module for module in self.modules() if isinstance(module, SeedMLP)]

    def finite(self) -> Tensor:
        """Which seeds' parameters are all finite, ``[S]`` bool."""
        rows = [p.detach().flatten(1).sum(1) for p in self.parameters()]
        return torch.stack(rows).isfinite().all(0)

    def _adam(self, parameter: Tensor) -> SeedAdam:
        return SeedAdam(parameter, beta2=self.config.adam_beta2)

    def see(self, observation: Float[Tensor, "S *batch F"]) -> Float[Tensor, "S *batch F"]:
        """Observations as the networks see them: scaled or normalised."""
        if self._scale is not None:
            return observation * self._scale
        assert self.normaliser is not None
        return self.normaliser(observation)

    def logits(self, observation: Float[Tensor, "S *batch F"]) -> Float[Tensor, "S *batch 1 A"]:
        """The policy at raw observations."""
        return self.policy(self.see(observation)).unsqueeze(-2)

    @torch.no_grad()
    def acting_logits(self, observation: Float[Tensor, "S N F"]) -> Float[Tensor, "S N 1 A"]:
        """The same without a graph, by the fastest way for a few lanes."""
        return self._forward(self.see(observation)).unsqueeze(-2)

    def value(self, seen: Float[Tensor, "S *batch F"]) -> Float[Tensor, "S *batch"]:
        """The critic at seen observations, in units of the value scale."""
        assert self.critic is not None
        return self.critic(seen).squeeze(-1)

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
            second: ``[S, T, N, 1, A]`` Exp(1) noise for relaxed estimators.
            share: ``[S, 1]`` of the full step sizes.
            critic_steps: full-batch steps of the critic.
            measure: whether to compute the numbers that are logged; changes no other bit.

        Returns:
            Logged numbers ``[S]`` by TensorBoard tag; empty unless ``measure``.
        """
        c, weight = self.config, rollout.valid.to(torch.float32)
        seen = self.see(torch.cat([rollout.observation, rollout.last.unsqueeze(1)], 1))
        x = seen[:, :-1].contiguous()
        value = None if self.critic is None else self.value(seen)
        credit, target = self._credit(rollout, value)
        logits = self.policy(x).unsqueeze(-2)
        draw = Draw(logits, rollout.gumbel, second, rollout.action)
        u = self.estimator.gradient(draw, credit, context=x)
        numbers = {}
        if measure:
            numbers = diagnostics.update_numbers(self.policy, x, draw, credit, u, weight)
            if self.estimator.traits.control_variate:
                numbers |= diagnostics.control_variate(draw, credit, u, weight)
            if value is not None:
                numbers |= diagnostics.critic_numbers(value[:, :-1].detach(), target, weight)
        along = u
        if self.estimator.descends_variance:
            along = direction(c.objective, self.policy, x, u * weight[..., None, None])
        norm = self._step_policy(draw, u, weight, share * c.learning_rate)
        if measure:
            numbers["gradient/norm"] = norm
        if value is not None:
            self._step_critic(seen, value, target, weight, share, critic_steps)
        self._step_estimator(draw, credit, x, along, weight, share * c.estimator_learning_rate)
        self._adapt(rollout, target)
        return numbers

    @torch.no_grad()
    def _credit(self, rollout: Rollout, value: Tensor | None) -> tuple[Tensor, Tensor]:
        """(credit of each action, target of the critic) ``[S, T, N]``, in value scales."""
        c, scale = self.config, self.value_scale.unsqueeze(-1)
        reward = rollout.reward / scale
        if value is None:
            credit = returns.return_to_go(reward, rollout.terminated | rollout.truncated, c.gamma)
            return credit, credit
        value = value.detach()
        following = value[:, 1:]
        if rollout.final is not None:
            ended = self.value(self.see(rollout.final))
            following = torch.where(rollout.truncated, ended, following)
        flags = reward, value[:, :-1], following, rollout.terminated, rollout.truncated
        if c.signal == "gae":
            credit = returns.gae(*flags, c.gamma, c.gae_lambda)
        else:
            credit = returns.n_step(*flags, c.gamma, c.n_step)
        return credit, credit + value[:, :-1]

    @torch.no_grad()
    def _adapt(self, rollout: Rollout, target: Tensor) -> None:
        """Renew running statistics, after all steps, and rebase the networks to keep functions."""
        if self.normaliser is not None:
            self.normaliser.update(rollout.observation, rollout.valid, self.networks())
        if self.squares is not None:
            raw = target * self.value_scale.unsqueeze(-1)
            self.squares.update((raw * raw).unsqueeze(-1), rollout.valid)
            scale = self.squares.mean.sqrt().clamp(min=1e-8)
            factor = self.value_scale / scale
            if self.critic is not None:
                self.critic.rescale(factor)
            self.estimator.rescale(factor)
            self.value_scale.copy_(scale)

    def _step_policy(self, draw: Draw, u: Tensor, weight: Tensor, step_size: Tensor) -> Tensor:
        """Ascend the mean of u over valid rows; returns each seed's gradient norm ``[S]``."""
        count = weight.flatten(1).sum(1).clamp(min=1.0).view(-1, 1, 1, 1, 1)
        ascent = u
        if self.config.entropy_coef:
            log_p = draw.logits.detach().log_softmax(-1)
            p, h = log_p.exp(), diagnostics.entropy(log_p)[..., None, None]
            slope = torch.where(p > 0, -p * (log_p + h), 0.0)
            ascent = u + self.config.entropy_coef * slope
        descent = -(ascent * weight[..., None, None]) / count
        # A scalar: torch imports sympy (half a second) when gradients of a tensor are handed in.
        (gradient,) = torch.autograd.grad(inner(draw.logits, descent), self.policy.flat)
        norm = (gradient * gradient).sum(-1).sqrt()
        if self.config.max_grad_norm:
            gradient = gradient * (self.config.max_grad_norm / norm).clamp(max=1.0).unsqueeze(1)
        self.policy_adam.step(self.policy.flat, gradient, step_size)
        return norm

    def _step_critic(
        self, seen: Tensor, value: Tensor, target: Tensor, weight: Tensor, share: Tensor, steps: int
    ) -> None:
        """Regress the critic on its targets; the first step reuses the credit's forward pass."""
        assert self.critic is not None
        assert self.critic_adam is not None
        for i in range(steps):
            prediction = (value if i == 0 else self.value(seen))[:, :-1]
            loss = weighted_mean(0.5 * (prediction - target) ** 2, weight, self.seeds)
            (gradient,) = torch.autograd.grad(loss, self.critic.flat)
            step_size = share * self.config.critic_learning_rate
            self.critic_adam.step(self.critic.flat, gradient, step_size)

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
        draw = draw._replace(logits=draw.logits.detach())
        for i in range(self.config.estimator_steps if parameters else 0):
            # The first step knows the direction; later ones take that of the moved parameters.
            known = along if i == 0 or self.config.objective != "logits" else None
            loss = self.estimator.loss(draw, credit, context=x, direction=known, weight=weight)
            assert loss is not None
            gradients = torch.autograd.grad(loss, parameters)
            for parameter, gradient, adam in zip(
                parameters, gradients, self.estimator_adams, strict=True
            ):
                adam.step(parameter, gradient, step_size)
        self.estimator.observe(draw, credit, context=x, weight=weight)
