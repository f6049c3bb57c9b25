"""The value of a state as a trained policy's own critic states it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from numpy import ndarray

from rlgrad.agent import Policy
from rlgrad.estimators.learned import Learned
from rlgrad.images import context_of
from rlgrad.learner import Learner

Value = Callable[[Any], float]


def value_of(policy: Policy) -> Value | None:
    """What gives the value of a flattened observation ``[F]``, in units of return.

    It is of the discounted return that training aimed at.

    Args:
        policy: of one seed, rlgrad's own or a peer's.

    Returns:
        None where the policy came without a critic or a learned baseline.
    """
    if isinstance(policy, Learner):
        return _of_learner(policy)
    from rlgrad.peers.policy import PeerPolicy

    return policy.valuer() if isinstance(policy, PeerPolicy) else None


def _of_learner(learner: Learner) -> Value | None:
    estimator = learner.estimator
    # A baseline of whole returns is a value; beside a critic it is one of advantages.
    baseline = isinstance(estimator, Learned) and not estimator.on_variance
    if learner.critic is None and not baseline:
        return None

    @torch.no_grad()
    def value(x: Float[ndarray, " F"]) -> float:
        seen = learner.see(torch.as_tensor(x).view(1, 1, 1, -1))
        if learner.critic is not None:
            v = learner.critic(seen)
        else:
            assert isinstance(estimator, Learned)
            context = context_of(learner.policy, seen, learner.policy.blocks(seen))
            v = estimator.predict(context, seen[..., 0])
        return float(v * learner.value_scale)

    return value
