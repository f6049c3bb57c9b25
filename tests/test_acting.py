"""The numpy forward pass for acting: the network's own numbers, parameters and bits."""

import pytest
import torch

from rlgrad.acting import Forward
from rlgrad.estimators.networks import SeedMLP


def network(seeds: int, activation: str = "tanh", hidden: tuple[int, ...] = (32, 10)) -> SeedMLP:
    made = SeedMLP(5, 3, hidden, seeds, activation=activation)
    g = torch.Generator().manual_seed(0)
    made.initialise(torch.rand(20, made.flat.shape[1], generator=g)[:seeds])
    return made


def inputs(seeds: int, rows: int) -> torch.Tensor:
    return torch.randn(20, rows, 5, generator=torch.Generator().manual_seed(1))[:seeds]


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("hidden", [(), (32,), (32, 10)])
def test_forward_is_the_networks(activation, hidden):
    net = network(4, activation, hidden)
    x = inputs(4, 8)
    before = x.clone()
    torch.testing.assert_close(Forward(net)(x), net(x).detach(), rtol=1e-5, atol=1e-6)
    assert torch.equal(x, before)  # activations are applied in place, but never to the input


def test_forward_follows_the_parameters():
    net, x = network(2), inputs(2, 8)
    forward = Forward(net)
    first = forward(x).clone()
    with torch.no_grad():
        net.flat.mul_(0.5)
    assert not torch.equal(forward(x), first)
    torch.testing.assert_close(forward(x), net(x).detach(), rtol=1e-5, atol=1e-6)


def test_many_rows_are_left_to_torch():
    net = network(2)
    x = inputs(2, Forward(net).most_rows + 1)
    assert torch.equal(Forward(net)(x), net(x).detach())


@pytest.mark.parametrize("rows", [1, 3, 7, 8, 64])
def test_a_seed_has_the_same_bits_alone_as_among_twenty(rows):
    among = Forward(network(20))(inputs(20, rows))
    assert torch.equal(Forward(network(1))(inputs(1, rows)), among[:1])
