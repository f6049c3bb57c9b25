"""The numpy forward pass for acting: the network's own numbers, parameters and bits."""

import pytest
import torch

from rlgrad.acting import Forward
from rlgrad.config import Config
from rlgrad.estimators.networks import SeedMLP
from rlgrad.learner import Learner


def network(seeds: int, activation: str = "tanh", hidden: tuple[int, ...] = (32, 10)) -> SeedMLP:
    made = SeedMLP(5, 3, hidden, seeds, activation=activation)
    g = torch.Generator().manual_seed(0)
    made.initialise(torch.rand(20, made.flat.shape[1], generator=g)[:seeds])
    return made


def inputs(seeds: int, rows: int) -> torch.Tensor:
    return torch.randn(20, rows, 5, generator=torch.Generator().manual_seed(1))[:seeds]


def act(net: SeedMLP, x: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(Forward(net)(x.numpy()).copy())


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("hidden", [(), (32,), (32, 10)])
def test_forward_is_the_networks(activation, hidden):
    net = network(4, activation, hidden)
    x = inputs(4, 8)
    before = x.clone()
    torch.testing.assert_close(act(net, x), net(x).detach(), rtol=1e-5, atol=1e-6)
    assert torch.equal(x, before)  # activations are applied in place, but never to the input


def test_forward_follows_the_parameters():
    net, x = network(2), inputs(2, 8)
    forward = Forward(net)
    first = forward(x.numpy()).copy()
    with torch.no_grad():
        net.flat.mul_(0.5)
    now = torch.from_numpy(forward(x.numpy()))
    assert not torch.equal(now, torch.from_numpy(first))
    torch.testing.assert_close(now, net(x).detach(), rtol=1e-5, atol=1e-6)


def test_many_rows_are_left_to_torch():
    net = network(2)
    x = inputs(2, Forward(net).most_rows + 1)
    with torch.no_grad():
        assert torch.equal(act(net, x), net(x))


@pytest.mark.parametrize("rows", [1, 3, 7, 8, 64])
def test_a_seed_has_the_same_bits_alone_as_among_twenty(rows):
    among = act(network(20), inputs(20, rows))
    assert torch.equal(act(network(1), inputs(1, rows)), among[:1])


@pytest.mark.parametrize("scaled", [True, False], ids=["scaled", "normalised"])
def test_an_actor_is_the_learners_policy(scaled):
    """Factors of two and of three categories: the third of the first does not exist."""
    learner = Learner(
        Config(), 5, [2, 3], list(range(4)), [1.0, 0.5, 2.0, 1.0, 0.1] * scaled or None
    )
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        learner.policy.flat.copy_(torch.randn(learner.policy.flat.shape, generator=g))
        if learner.normaliser is not None:
            learner.normaliser.mean.copy_(torch.randn(4, 5, generator=g))
            learner.normaliser.deviation.copy_(torch.rand(4, 5, generator=g) + 0.1)
    x = 5 * inputs(4, 6)
    logits, expected = torch.from_numpy(learner.actor()(x.numpy())), learner.logits(x).detach()
    assert logits.shape == (4, 6, 2, 3)
    assert bool(logits[:, :, 0, 2].isneginf().all())
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
