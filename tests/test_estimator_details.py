"""Small promises of the estimators' parts: starts, limits, copies and batches of odd shapes.

Nothing here is sampled for its mean, so nothing can fail by luck.
"""

from __future__ import annotations

import copy

import pytest
import torch
from problems import seeded

from rlgrad.estimators import Draw, build
from rlgrad.estimators.control import ControlVariate
from rlgrad.estimators.least_squares import LeastSquares
from rlgrad.estimators.networks import SeedMLP
from rlgrad.estimators.passes import BLOCK, Blocks
from rlgrad.estimators.statistics import live_rows


def drawn(estimator, *batch, seed=1):
    shape = (*batch, estimator.factors, estimator.categories)
    logits = torch.randn(shape, generator=seeded(seed))
    draw = estimator.sample(logits, generator=seeded(seed + 1))
    return draw, torch.randn(batch, generator=seeded(seed + 2))


def mlp(inputs=3, hidden=(32,), outputs=2, seeds=2):
    network = SeedMLP(inputs, outputs, hidden, seeds, activation="tanh", head_gain=1.0)
    network.flat.data.copy_(torch.randn(network.flat.shape, generator=seeded(5)) / 3)
    return network


def test_a_learned_q_starts_at_zero():
    estimator = build("all-action-control", 1, 3, 2)
    draw, value = drawn(estimator, 20)
    x = torch.randn(20, 2, generator=seeded(9))
    plain = build("reinforce", 1, 3).gradient(draw, value)
    torch.testing.assert_close(estimator.gradient(draw, value, context=x), plain)


def test_a_control_variate_needs_no_context():
    given = {"hidden": (8,), "activation": "tanh", "temperature": 0.5, "scale": 1.0}
    control = ControlVariate(1, 3, 0, 1, head_gain=1.0, **given)
    z = torch.randn(5, 1, 3, generator=seeded(1))
    assert control(z, None).shape == (5,)


def test_a_fit_is_used_once_at_most():
    solver = LeastSquares(4, 2, 0.9, 0.01)
    solver.outcome.mean.copy_(torch.tensor([[3.0, 2.0], [-1.0, 2.0]]))
    assert solver.share().tolist() == [[1.0], [0.0]]


def test_a_copy_goes_on_alike():
    estimator = build("relax-linear", 1, 3, 2)
    draw, value = drawn(estimator, 30)
    x = torch.randn(30, 2, generator=seeded(9))
    estimator.gradient(draw, value, context=x)
    other = copy.deepcopy(estimator)
    for each in (estimator, other):
        each.observe(draw, value, context=x)
        each.gradient(draw, value, context=x)
        each.observe(draw, value, context=x)
    assert other.solver.weights.abs().sum() > 0
    assert other.solver.weights.equal(estimator.solver.weights)


@pytest.mark.parametrize("changed", ["context", "draw"])
def test_what_was_seen_is_kept_for_the_same_question_alone(changed):
    estimator = build("relax-linear", 1, 3, 2)
    draw, value = drawn(estimator, 30)
    x = torch.randn(30, 2, generator=seeded(9))
    for _ in range(2):
        estimator.gradient(draw, value, context=x)
        estimator.observe(draw, value, context=x)
    first = estimator.gradient(draw, value, context=x)
    if changed == "draw":
        draw = Draw(draw.logits + torch.tensor([0.5, 0.0, 0.0]), *draw[1:])
    else:
        x = x + 1
    again = estimator.gradient(draw, value, context=x)
    assert not again.equal(first)
    estimator.__dict__.pop("_kept")
    assert again.equal(estimator.gradient(draw, value, context=x))


def test_a_network_takes_numbers_of_another_precision():
    network = mlp()
    x = torch.randn(2, 7, 3, generator=seeded(2), dtype=torch.float64)
    assert network(x).equal(network(x.float()).double())


def test_many_rows_are_evaluated_in_blocks():
    network = mlp()
    x = torch.randn(2, 2 * BLOCK + 3, 3, generator=seeded(2))
    with torch.no_grad():
        whole = torch.cat([network(part) for part in x.split(BLOCK, dim=1)], 1)
        torch.testing.assert_close(network(x), whole)
    (bias, weight), (last, head) = network.layers(network.flat)
    by_hand = torch.bmm(torch.tanh(torch.bmm(x, weight) + bias), head) + last
    torch.testing.assert_close(network(x), by_hand[..., :2], rtol=1e-5, atol=1e-5)


def test_blocks_that_are_not_alive_are_zero():
    network = mlp()
    x = torch.randn(2, 30, 3, generator=seeded(2))
    with torch.no_grad():
        layers = list(network.layers(network.flat))
        blocks = Blocks(x, layers, True, 0, live=12, block=10)
        whole = Blocks(x, layers, True, 0, block=10)
    assert blocks.output.shape == whole.output.shape
    assert blocks.output[:, :20].equal(whole.output[:, :20])
    assert not blocks.output[:, 20:].any()


def test_rows_that_are_alive():
    weight = torch.zeros(3, 6, 2)
    assert live_rows(weight, 3) == 0
    weight[1, 3, 0] = 1.0
    assert live_rows(weight, 3) == 7
    assert live_rows(weight[1], None) == 7


def test_the_temperature_of_rebar():
    for given, expected in (({}, 0.5), ({"temperature": 100.0}, 100.0)):
        assert build("rebar", **given).temperature.item() == pytest.approx(expected)
    with pytest.raises(ValueError, match="up to 100"):
        build("rebar", temperature=100.1)


def test_rebar_of_one_row_for_each_seed():
    estimator = build("rebar", 1, 3, seeds=4)
    estimator.eta.data.copy_(torch.tensor([[0.0], [0.5], [1.0], [2.0]]))
    draw, value = drawn(estimator, 4)
    slopes = torch.tensor([1.0, -2.0, 0.5])
    u = estimator.gradient(draw, value, f=lambda y: (y * slopes).sum((-2, -1)))
    for i in range(4):
        alone = build("rebar", 1, 3, seeds=1, eta=estimator.eta[i].item())
        own = Draw(*(each[i : i + 1] for each in draw))
        expected = alone.gradient(own, value[i : i + 1], f=lambda y: (y * slopes).sum((-2, -1)))
        torch.testing.assert_close(u[i : i + 1], expected)


def test_an_f_without_a_slope_is_named_by_who_asks():
    estimator = build("rebar", 1, 3)
    draw, value = drawn(estimator, 5)

    def steps(y):
        return y.detach().argmax(-1).sum(-1).float()

    with pytest.raises(ValueError, match=r"^rebar differentiates f"):
        estimator.gradient(draw, value, f=steps)
    direction = torch.ones_like(draw.logits)
    with pytest.raises(ValueError, match=r"^rebar differentiates f"):
        estimator.loss(draw, value, f=steps, direction=direction)
