"""Networks of many seeds: right values, right derivatives, and the same bits in any company."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from problems import (
    FEATURES,
    INF,
    double,
    every_member,
    make,
    seeded,
    trained_member,
    values_at,
    waves,
)
from torch.nn.functional import linear

from rlgrad.estimators import build
from rlgrad.estimators.networks import SeedMLP
from rlgrad.estimators.passes import TangentTrace
from rlgrad.estimators.statistics import RunningMean

HIDDEN = [(), (10, 10), (32, 32), (64,), (7, 33)]


def network(inputs, outputs, hidden, seeds, *, activation="tanh", dtype=torch.float32, seed=0):
    """A perceptron all of whose parameters are random, biases included."""
    net = SeedMLP(inputs, outputs, hidden, seeds, activation=activation).to(dtype)
    with torch.no_grad():
        net.flat.copy_(0.5 * torch.randn(net.flat.shape, generator=seeded(seed)))
    return net


def alone(net, k, inputs, hidden):
    """Learner k of ``net`` as a network of its own."""
    single = SeedMLP(inputs, net.outputs, hidden, 1, activation="tanh" if net.tanh else "relu").to(
        net.flat.dtype
    )
    with torch.no_grad():
        single.flat.copy_(net.flat[k : k + 1])
    return single


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("hidden", HIDDEN, ids=str)
@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_forward_is_a_plain_loop_over_seeds(outputs, hidden, activation):
    net = network(5, outputs, hidden, 3, activation=activation, dtype=torch.float64)
    x = torch.randn(3, 4, 6, 5, generator=seeded(1), dtype=torch.float64)
    expected = []
    for k in range(3):
        y = x[k]
        for i, (bias, weight) in enumerate(net.layers(net.flat)):
            y = y if i == 0 else getattr(torch, activation)(y)
            y = linear(y, weight[k].T, bias[k, 0])
        expected.append(y[..., :outputs])
    torch.testing.assert_close(net(x), torch.stack(expected), rtol=1e-12, atol=1e-12)


def test_parameters_are_read_from_the_flat_row_in_the_documented_order():
    # bias [out], then weight [in, out], per layer, out padded to a multiple of four: written down,
    # since checkpoints depend on it.
    net = SeedMLP(2, 2, (), 1).double()
    with torch.no_grad():
        net.flat[0, :12] = torch.arange(12.0)
    x = torch.tensor([[10.0, 100.0]], dtype=torch.float64)
    assert net(x).tolist() == [[0 + 4 * 10 + 8 * 100, 1 + 5 * 10 + 9 * 100]]


# torch.func.jvp itself calls the deprecated torch.jit.script when it is first used.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("hidden", HIDDEN, ids=str)
def test_tangent_is_forward_mode_differentiation(hidden, activation):
    net = network(5, 3, hidden, 2, activation=activation, dtype=torch.float64)
    x, dx = torch.randn(2, 2, 9, 5, generator=seeded(1), dtype=torch.float64)
    y, dy = net.tangent(x, dx)
    expected = torch.func.jvp(net, (x,), (dx,))
    torch.testing.assert_close(y, expected[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(dy, expected[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("hidden", HIDDEN, ids=str)
def test_written_out_passes_are_autograds(hidden, activation):
    net = network(5, 3, hidden, 2, activation=activation, dtype=torch.float64)
    x, dx = torch.randn(2, 2, 9, 5, generator=seeded(1), dtype=torch.float64)
    g, h = torch.randn(2, 2, 9, 3, generator=seeded(4), dtype=torch.float64)
    at = x.clone().requires_grad_()
    y = net(at)
    expected = torch.autograd.grad((y * g).sum(), [net.flat, at])
    primal, slope = net.tangent(x, dx)
    both = torch.autograd.grad((primal * g + slope * h).sum(), net.flat)[0]
    trace = net.trace(x)
    along = TangentTrace(trace, dx)
    found = [trace.output[..., :3], trace.parameters(g), trace.rows(g)]
    found += [along.output[..., :3], along.parameters(g, h)]
    for name, f, e in zip("yPxtT", found, [y, *expected, slope, both], strict=True):
        torch.testing.assert_close(f, e.detach(), rtol=1e-12, atol=1e-12, msg=name)
    other = net.flat.detach() * 0.5  # other parameters, as ``forward`` takes them
    torch.testing.assert_close(net.trace(x, other).output[..., :3], net(x, other).detach())


def check_bits(hidden, rows):
    for inputs, outputs in itertools.product([3, 4, 11], [1, 2, 3, 4]):
        many = network(inputs, outputs, hidden, 20)
        single = alone(many, 7, inputs, hidden)
        x, dx = torch.randn(2, 20, rows, inputs, generator=seeded(2))
        g = torch.randn(20, rows, outputs, generator=seeded(3))
        results = []
        for net, k in [(many, slice(None)), (single, slice(7, 8))]:
            at = x[k].clone().requires_grad_()
            y = net(at)
            forward = torch.autograd.grad((y * g[k]).sum(), [net.flat, at])
            primal, tangent = net.tangent(at, dx[k])
            both = torch.autograd.grad((primal * g[k] + tangent * g[k]).sum(), [net.flat, at])
            with torch.no_grad():
                frozen, trace = net(at), net.trace(at)
                along = TangentTrace(trace, dx[k])
                reverse = [trace.output, trace.parameters(g[k]), trace.rows(g[k])]
                reverse += [along.output, along.parameters(g[k], g[k])]
            results.append([y, *forward, primal, tangent, *both, frozen, *reverse])
        for each, only in zip(*results, strict=True):
            assert torch.equal(each[7:8], only)


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 7, 16, 33, 129])
@pytest.mark.parametrize("hidden", [*HIDDEN, (8,), (12, 20)], ids=str)
def test_a_seed_gets_the_same_bits_in_any_company(hidden, rows):
    check_bits(hidden, rows)


def test_initialise_is_per_seed():
    net = SeedMLP(4, 3, (8,), 3)
    uniform = torch.rand(net.flat.shape, generator=seeded(0))
    net.initialise(uniform)
    before = net.flat.detach().clone()
    changed = uniform.clone()
    changed[1] = torch.rand(uniform.shape[1], generator=seeded(1))
    net.initialise(changed)
    assert torch.equal(net.flat[[0, 2]], before[[0, 2]])
    assert not torch.equal(net.flat[1], before[1])
    single = SeedMLP(4, 3, (8,), 1)
    single.initialise(uniform[2:])
    assert torch.equal(single.flat, before[2:])


def test_initial_weights_have_the_promised_scale():
    net = SeedMLP(100, 100, (200,), 2, head_gain=0.1)
    net.initialise(torch.rand(net.flat.shape, generator=seeded(0)))
    (first_bias, first), (last_bias, last) = net.layers(net.flat.detach())
    assert not first_bias.any()
    assert not last_bias.any()
    # LeCun: variance 1 / fan_in; 20,000 uniform weights give it to 0.5 per cent.
    assert float(first.std()) == pytest.approx(100**-0.5, rel=0.03)
    assert float(last.std()) == pytest.approx(0.1 * 200**-0.5, rel=0.03)
    zero = SeedMLP(4, 2, (8,), 2, head_gain=0.0)
    assert not zero(torch.ones(2, 3, 4)).any()


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("hidden", HIDDEN, ids=str)
def test_padding_units_stay_at_zero_in_training(hidden, activation):
    # Units that nobody asked for must not learn: the network has the widths that it was given.
    net = SeedMLP(5, 3, hidden, 2, activation=activation).double()
    net.initialise(torch.rand(net.flat.shape, generator=seeded(0)))
    optimiser = torch.optim.Adam(net.parameters(), lr=0.1)
    x = torch.randn(2, 9, 5, generator=seeded(1), dtype=torch.float64)
    for _ in range(3):
        optimiser.zero_grad()
        y, dy = net.tangent(x, x.flip(0))
        (y - 1).square().add(dy.square()).mean().backward()
        optimiser.step()
    asked = sum((inputs + 1) * outputs for inputs, outputs in itertools.pairwise([5, *hidden, 3]))
    trained = net.flat.count_nonzero(-1)
    assert (trained <= asked).all()
    assert (trained > 0.7 * asked).all()


@pytest.mark.parametrize("outputs", [1, 2, 3])
@pytest.mark.parametrize("hidden", HIDDEN, ids=str)
def test_flat_rows_are_multiples_of_64_and_padding_is_inert(hidden, outputs):
    net = network(5, outputs, hidden, 2)
    assert net.flat.shape[1] % 64 == 0
    used = sum(bias.numel() + weight.numel() for bias, weight in net.layers(net.flat)) // 2
    assert 0 <= net.flat.shape[1] - used < 64
    x = torch.randn(2, 3, 5, generator=seeded(1))
    before = net(x)
    before.sum().backward()
    assert not net.flat.grad[:, used:].any()
    with torch.no_grad():
        net.flat[:, used:] += 1
    assert torch.equal(net(x), before)


def test_moving_or_changing_parameters_is_seen_without_gradients():
    # Evaluation without gradients reads views made once; they must never be stale.
    net, x = network(5, 2, (8,), 2), torch.randn(2, 3, 5, generator=seeded(1))

    def check(each, x):
        with torch.no_grad():
            frozen = each(x)
        assert torch.equal(frozen, each(x))
        assert frozen.dtype == x.dtype

    check(net, x)
    with torch.no_grad():
        net.flat.add_(0.1)
    check(net, x)
    net.load_state_dict(network(5, 2, (8,), 2, seed=9).state_dict())
    check(net, x)
    net.double()
    assert net.flat.dtype == torch.float64
    check(net, x.double())
    net.to(torch.float32)
    check(net, x)


def test_rebase_keeps_the_function_and_rescale_multiplies_it():
    # Three of five inputs are normalised anew; the rest, and the other seed's numbers, stay.
    net = network(5, 2, (8,), 2, dtype=torch.float64)
    x = torch.randn(2, 3, 5, generator=seeded(1), dtype=torch.float64)
    shift, factor = torch.rand(2, 2, 3, generator=seeded(2), dtype=torch.float64) + 0.5
    before = net(x).detach()
    net.rebase(shift, factor)
    after = torch.cat([(x[..., :3] - shift[:, None]) / factor[:, None], x[..., 3:]], -1)
    torch.testing.assert_close(net(after).detach(), before, rtol=1e-12, atol=1e-12)
    scale = double([[2.0], [-0.5]])
    net.rescale(scale)
    torch.testing.assert_close(net(after).detach(), scale[:, None] * before, rtol=1e-12, atol=1e-12)


def test_a_copy_reads_its_own_parameters():
    net, x = network(5, 2, (8,), 2), torch.randn(2, 3, 5, generator=seeded(1))
    with torch.no_grad():
        net(x)
    other = copy.deepcopy(net)
    with torch.no_grad():
        other.flat.add_(0.1)
        assert torch.equal(other(x), other.tangent(x, x)[0])


def test_other_parameters_can_be_given():
    net, x = network(5, 2, (8,), 2), torch.randn(2, 3, 5, generator=seeded(1))
    other = network(5, 2, (8,), 2, seed=9)
    assert torch.equal(net(x, other.flat), other(x))


def test_wrong_activation_and_leading_axis_are_named():
    with pytest.raises(ValueError, match=r"'gelu' is not one of tanh, relu"):
        SeedMLP(2, 2, activation="gelu")
    for call in (SeedMLP(5, 2, (8,), 3), lambda x: SeedMLP(5, 2, (8,), 3).tangent(x, x)):
        with pytest.raises(ValueError, match=r"\[4, 6, 5\] for 3 seeds.*first axis must be"):
            call(torch.zeros(4, 6, 5))


# The seed axis of whole estimators: S learners at once are S learners apart, bit for bit.

BATCH_LOGITS = torch.randn(3, 5, 7, 3, 3, generator=seeded(1))
BATCH_LOGITS[..., 1, 2] = -INF
BATCH_CONTEXT = torch.randn(3, 5, 7, FEATURES, generator=seeded(2))


def joint(x):
    """Keeps the bits of a row in any company, which a product of matrices does not."""
    inside = (x * waves(3, 3).to(x)).sum((-2, -1))
    return inside.tanh() + inside


def one_seed(x, k, seed_axis):
    """Seed k of a tensor; ``seed_axis`` counts from the end."""
    return x.select(seed_axis, k).contiguous()


@pytest.mark.parametrize("width", [1, 2, 36])
@pytest.mark.parametrize("rows", [7, 64, 1001])
def test_running_means_have_the_same_bits_in_any_company(rows, width):
    together, apart = RunningMean(width, 20), RunningMean(width)
    for seed in range(3):
        x = torch.randn(20, rows, width, generator=seeded(seed))
        weight = (torch.rand(20, rows, generator=seeded(seed + 9)) < 0.8).float()
        together.update(x, weight)
        apart.update(x[7], weight[7])
    assert torch.equal(together.mean[7:8], apart.mean)


@every_member
def test_seeds_together_are_seeds_apart(name, chosen):
    together = make(name, chosen, BATCH_LOGITS, 3, torch.float32, f=joint)
    draw = together.sample(BATCH_LOGITS, generator=seeded(4))
    value = values_at(together, draw, joint) + torch.arange(3.0).view(3, 1, 1)
    weight = (torch.rand(3, 5, 7, generator=seeded(6)) < 0.8).float()

    def run(estimator, draw, value, context, weight):
        u = estimator.gradient(draw, value, context=context, f=joint)
        loss = estimator.loss(draw, value, context=context, f=joint, weight=weight)
        if loss is not None:
            loss.backward()
        grads = [parameter.grad for parameter in estimator.parameters()]
        estimator.observe(draw, value, context=context, weight=weight)
        kept = estimator.state_dict()  # the rest is the same for every seed
        return u, grads, [x for name, x in estimator.named_buffers() if name in kept]

    apart = [make(name, chosen, BATCH_LOGITS[k], None, torch.float32) for k in range(3)]
    for k, each in enumerate(apart):
        state = together.state_dict()
        each.load_state_dict({key: state[key][k : k + 1] for key in state})
    u, grads, buffers = run(together, draw, value, BATCH_CONTEXT, weight)
    for k, each in enumerate(apart):
        parts = (one_seed(part, k, -5) for part in draw[:3])
        rows = type(draw)(*parts, one_seed(draw.action, k, -4))
        only = run(each, rows, one_seed(value, k, -3), BATCH_CONTEXT[k], weight[k])
        assert torch.equal(u[k], only[0])
        for many, single in zip([*grads, *buffers], [*only[1], *only[2]], strict=True):
            assert torch.equal(many[k : k + 1], single)


@trained_member
def test_wrong_seed_axis_is_named(name, chosen):
    estimator = build(name, 3, 3, FEATURES, 3, **chosen)
    draw = estimator.sample(torch.zeros(4, 6, 3, 3), generator=seeded(0))
    value, context = values_at(estimator, draw, joint), torch.zeros(4, 6, FEATURES)
    for method in (estimator.gradient, estimator.loss):
        with pytest.raises(ValueError, match="for 3 seeds; the first axis must be the seed"):
            method(draw, value, context=context, f=joint)


@pytest.mark.parametrize("method", ["gradient", "observe"])
def test_wrong_seed_axis_of_a_constant_is_named(method):
    estimator = build("constant", 1, 2, seeds=3)
    draw = estimator.sample(torch.zeros(6, 2, 1, 2), generator=seeded(0))
    with pytest.raises(ValueError, match="3 seeds"):
        getattr(estimator, method)(draw, torch.ones(6, 2))


@pytest.mark.parametrize("move", ["data", "vector", "assign", "double"])
def test_parameters_that_move_are_followed(move):
    net = network(4, 2, (8,), 1)
    x = torch.randn(1, 5, 4, generator=seeded(1))
    with torch.no_grad():
        before = net(x)
        other = net.flat.detach() * 0.5
        if move == "data":
            net.flat.data = other
        elif move == "vector":
            torch.nn.utils.vector_to_parameters(other.flatten(), net.parameters())
        elif move == "assign":
            net.load_state_dict({"flat": other}, assign=True)
        else:
            net.double().float().flat.mul_(0.5)
        after = net(x)
    assert not torch.equal(after, before)
    assert torch.equal(after, net(x).detach())  # with a graph, from the parameters themselves
    assert torch.equal(net.trace(x).output[..., :2], after)
