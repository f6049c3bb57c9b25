"""The critic as an objective: its written derivatives are those of autograd."""

from __future__ import annotations

import pytest
import torch

from rlgrad.config import Config
from rlgrad.critics import ActionValue, Critic
from rlgrad.estimators.objective import Differentiated, directional, slope


def case(activation):
    generator = torch.Generator().manual_seed(0)
    critic = Critic(4 + 6, Config(hidden=(33, 64), activation=activation), 3).double()
    noise = torch.randn(critic.network.flat.shape, generator=generator, dtype=torch.float64)
    critic.network.flat.data = 0.3 * noise
    shape = 3, 5, 7
    x, action, dx = (
        torch.randn(*shape, *each, generator=generator, dtype=torch.float64)
        for each in ((4,), (2, 3), (2, 3))
    )
    return ActionValue(critic, x), action, dx


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_derivatives_are_those_of_autograd(activation):
    q, action, dx = case(activation)

    def plain(choice):  # the same function without derivatives of its own
        return q(choice)

    assert isinstance(q, Differentiated)
    assert not isinstance(plain, Differentiated)
    for found, expected in zip(slope(q, action, ""), slope(plain, action, ""), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    results = []
    for f in (q, plain):
        at, along = action.clone().requires_grad_(), dx.clone().requires_grad_()
        y, dy = directional(f, at, along, "")
        results.append([y, dy, *torch.autograd.grad((2 * y + 3 * dy).sum(), [at, along])])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
