"""The contract that every gradient estimator for discrete random choices fulfils.

Two phases, because in reinforcement learning the value of a choice arrives later and only for the
choice that was made: ``sample`` now, ``gradient`` when the value is known. All noise is part of the
draw, so ``gradient`` is a pure function and an estimate can be rebuilt bit for bit.

Letters: ``D`` independent categorical factors of one choice, ``A`` categories per factor (smaller
factors are masked by logits of -inf), ``C`` context features, ``K`` draws per choice, ``S`` seeds
trained together (then the first batch axis is the seed).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlgrad.estimators import noise
from rlgrad.estimators.checks import checked
from rlgrad.estimators.pooling import ALONE, Chain
from rlgrad.estimators.traits import Traits

Objective = Callable[[Tensor], Tensor]
"""f: one-hot or relaxed choices ``[*batch, D, A]`` -> values ``[*batch]``."""


class Draw(NamedTuple):
    """Everything needed to rebuild a random choice; a leading K where there are K draws."""

    logits: Tensor
    """``[*batch, D, A]``, attached to whatever produced them."""
    gumbel: Tensor
    """``[*batch, D, A]`` standard Gumbel noise: action = argmax(log_softmax(logits) + gumbel)."""
    second: Tensor
    """``[*batch, D, A]`` Exp(1) noise for the relaxed choice given the action; a leading K for K
    relaxed choices, where ``Estimator.relaxations`` is above one."""
    action: Tensor
    """``[*batch, D]`` int64."""


class Estimator(nn.Module, ABC):
    """An estimate of d E[f] / d logits for ``factors`` x ``categories`` choices.

    Args:
        factors: D, independent categorical factors of one choice.
        categories: A, categories per factor.
        context: C, features of the state or input that baselines and control variates see.
        seeds: S, learners trained together. Then the first batch axis of every argument is S and
            trained networks and running statistics are kept apart per seed. None: one learner.
    """

    traits: ClassVar[Traits]
    source: ClassVar[str]

    def __init__(
        self, factors: int, categories: int, context: int = 0, seeds: int | None = None
    ) -> None:
        super().__init__()
        self.factors, self.categories, self.context, self.seeds = (
            factors,
            categories,
            context,
            seeds,
        )

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # Every member, also a user's own, checks its arguments in one place.
        super().__init_subclass__(**kwargs)
        for name in {"gradient", "loss", "observe", "observing"} & cls.__dict__.keys():
            setattr(cls, name, checked(cls.__dict__[name]))

    @property
    def values(self) -> int:
        """K, values of f that one estimate takes."""
        return self.traits.values

    def sample(
        self,
        logits: Float[Tensor, "*batch D A"],
        *,
        generator: torch.Generator | None = None,
        noise_pair: tuple[Tensor, Tensor] | None = None,
    ) -> Draw:
        """Draw a choice by the Gumbel-max rule, with the noise that a relaxation needs later.

        Args:
            logits: ``[*batch, D, A]``; -inf masks a category.
            generator: source of noise; None takes torch's global one.
            noise_pair: (Gumbel, Exp(1)) noise in the shapes of ``Draw.gumbel`` and
                ``Draw.second``, instead of fresh noise.

        Returns:
            A ``Draw``, with a leading K where ``values`` is above one.
        """
        shape = logits.shape if self.values == 1 else (self.values, *logits.shape)
        if noise_pair is None:
            first = noise.exponential(shape, logits, generator)
            relaxed = shape if self.relaxations == 1 else (self.relaxations, *shape)
            noise_pair = -first.log(), noise.exponential(relaxed, logits, generator)
        gumbel, second = noise_pair
        if self.traits.antithetic:
            gumbel = torch.stack([gumbel[0], gumbel[0].flip(-1)])
        action = (logits.detach().log_softmax(-1) + gumbel).argmax(-1)
        return Draw(logits.expand(shape), gumbel, second, action)

    @property
    def relaxations(self) -> int:
        """Relaxed choices given the action that one estimate takes; see ``Draw.second``."""
        return 1

    @property
    def descends_variance(self) -> bool:
        """Whether ``loss`` is the estimate's squared norm, so that ``direction`` has a say."""
        return False

    @abstractmethod
    def gradient(
        self,
        draw: Draw,
        value: Float[Tensor, "*values"],
        *,
        context: Tensor | None = None,
        f: Objective | None = None,
    ) -> Float[Tensor, "*batch D A"]:
        """The estimate of d E[f] / d logits; pure and detached.

        Args:
            draw: from ``sample``.
            value: ``[*batch]`` (or ``[K, *batch]``), f at the action, or the return credited to it.
            context: ``[*batch, C]`` features, where the estimator was built with a context.
            f: the objective as a callable, where ``traits`` ask for it.
        """

    def loss(
        self,
        draw: Draw,
        value: Float[Tensor, "*values"],
        *,
        context: Tensor | None = None,
        f: Objective | None = None,
        direction: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Float[Tensor, ""] | None:
        """What the estimator's own parameters descend; None where it has none.

        Args:
            draw: from ``sample``.
            value: as for ``gradient``.
            context: as for ``gradient``.
            f: as for ``gradient``.
            direction: ``[*batch, D, A]`` J v, the policy's derivative along a parameter gradient v,
                turns the squared norm at the logits into the squared norm of v.
            weight: ``[*batch]`` 1 for rows that count and 0 for padding.

        Returns:
            Mean over the rows that count, summed over seeds.
        """
        return None

    def loss_gradients(self, draw: Draw, value: Tensor, **given: Any) -> list[Tensor]:
        """Gradients of ``loss``, whose arguments these are, in the order of ``parameters()``."""
        with torch.enable_grad():
            loss = self.loss(draw, value, **given)
            assert loss is not None, f"{type(self).__name__} has parameters and no loss"
            return list(torch.autograd.grad(loss, list(self.parameters())))

    def observe(
        self,
        draw: Draw,
        value: Float[Tensor, "*values"],
        *,
        context: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> None:
        """Update running statistics; call it after ``gradient``, so that those are of the past."""
        with torch.no_grad():
            ALONE.together(self.observing(draw, value, context=context, weight=weight))

    def observing(
        self,
        draw: Draw,
        value: Float[Tensor, "*values"],
        *,
        context: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Chain:
        """As ``observe``, of a batch that may be spread over processes; without a graph.

        A member that overrides ``observe`` instead serves one process.
        """
        if type(self).observe is not Estimator.observe:
            self.observe(draw, value, context=context, weight=weight)
        yield from ()

    @property
    def observes(self) -> bool:
        """Whether there are running statistics."""
        own = type(self)
        return own.observing is not Estimator.observing or not self.pools

    @property
    def pools(self) -> bool:
        """Whether running statistics may be of batches that are spread over processes."""
        return type(self).observe is Estimator.observe

    def rescale(self, factor: Float[Tensor, "S 1"]) -> None:
        """Values will come multiplied by ``factor``: baselines and control variates follow."""
        return None


def one_hot(draw: Draw) -> Float[Tensor, "*batch D A"]:
    """The choice as one-hot vectors, in the dtype of the logits."""
    categories = torch.arange(draw.logits.shape[-1], device=draw.action.device)
    return (draw.action.unsqueeze(-1) == categories).to(draw.logits.dtype)


def features(context: Tensor | None, like: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch C"]:
    """The context, or no features at all ``[*batch, 0]``, of which a network is a constant."""
    return like.new_zeros(*like.shape, 0) if context is None else context


def score(draw: Draw) -> Float[Tensor, "*batch D A"]:
    """Gradient of log p(action) at the logits, detached: one-hot minus probabilities."""
    return one_hot(draw) - noise.probabilities(draw.logits.detach())
