"""The promises that every estimator makes, tested for the whole table at once.

A new member is covered as soon as it is in ``ESTIMATORS``; options worth testing go to ``VARIANTS``
in problems.py.
"""

from __future__ import annotations

import pytest
import torch
from problems import (
    FEATURES,
    INF,
    MANY_DRAWS,
    PROBLEMS,
    Z_BOUND,
    double,
    every_member,
    make,
    seeded,
    table,
    trained_member,
    values_at,
    waves,
    worst_z,
)

from rlgrad.errors import UsageError
from rlgrad.estimators import (
    ESTIMATORS,
    build,
    estimate,
    measure,
    one_hot,
    options,
    surrogate,
)


def rescaling(estimator):
    """What a member divides its estimate by, where it declares to."""
    if not getattr(estimator, "normalise", False):
        return 1.0
    mean, square = estimator.moments.mean.double()[0]
    return float((square - mean**2).clamp(min=1.0).sqrt())


def check_mean(name, chosen, problem, draws, dtype, seed):
    estimator = make(name, chosen, problem.logits, dtype=dtype, f=problem.observed(seeded(8)))
    if not estimator.traits.unbiased:
        pytest.skip("declared biased")
    context = torch.tensor([0.7, -1.2], dtype=dtype)
    rescaled = rescaling(estimator)
    # K values in one estimate leave the error of K draws, and an exact one has none.
    draws //= 100 if name == "exact" else estimator.values
    z = worst_z(estimator, problem, draws, seed, context=context, rescaled=rescaled)
    assert z < Z_BOUND


# Both precisions meet one, several and masked categories, one and several factors.
PRECISION = dict(zip(PROBLEMS, 4 * (torch.float64, torch.float32), strict=False))


@pytest.mark.parametrize("problem", PROBLEMS)
@every_member
def test_mean_is_the_exact_gradient(name, chosen, problem):
    check_mean(name, chosen, PROBLEMS[problem], 100_000, PRECISION[problem], seed=17)


@pytest.mark.slow
@pytest.mark.parametrize(("problem", "dtype"), MANY_DRAWS.items(), ids=str)
@every_member
def test_mean_is_the_exact_gradient_in_many_draws(name, chosen, problem, dtype):
    check_mean(name, chosen, PROBLEMS[problem], 1_000_000, dtype, seed=71)


def test_the_bound_detects_a_bias_of_three_per_cent():
    # The power of the test above, with its number of draws and a slightly wrong reference.
    problem = PROBLEMS["bandit"]
    estimator = make("constant", {"constant": "optimal"}, problem.logits, f=problem.f)
    measured = measure(estimator, problem.logits, problem.f, 100_000, generator=seeded(3))
    assert measured.z_scores(problem.exact()).abs().max() < Z_BOUND
    assert measured.z_scores(1.03 * problem.exact()).abs().max() > Z_BOUND


def test_measure_is_the_mean_and_variance_of_its_draws():
    problem = PROBLEMS["dice"]
    estimator = build("reinforce", 3, 3)
    measured = measure(estimator, problem.logits, problem.f, 500, generator=seeded(3))
    draw = estimator.sample(problem.logits.expand(500, 3, 3), generator=seeded(3))
    value = problem.f(one_hot(draw))
    u = estimator.gradient(draw, value)
    torch.testing.assert_close(measured.mean, u.mean(0))
    torch.testing.assert_close(measured.standard_error, u.std(0) / 500**0.5)
    assert measured.variance == pytest.approx(float(u.var(0).sum()))
    assert measured.value == pytest.approx(float(value.mean()))
    assert measured.signal_to_noise == pytest.approx(
        float(u.mean(0).square().sum() / u.var(0).sum())
    )
    chunked = measure(estimator, problem.logits, problem.f, 500, generator=seeded(3), chunk=170)
    gap = (chunked.mean - measured.mean).abs() / measured.standard_error
    assert gap.max() < Z_BOUND


def test_measure_counts_the_values_of_f_that_one_estimate_takes():
    problem = PROBLEMS["coins"]
    # exact sums over the 8 choices, beside the value of its draw.
    for name, evaluations in {"reinforce": 1, "leave-one-out": 2, "disarm": 2, "exact": 9}.items():
        estimator = build(name, 3, 2)
        measured = measure(estimator, problem.logits, problem.f, 500, chunk=300)
        assert measured.evaluations == evaluations, name
        assert measured.work_normalised_variance == evaluations * measured.variance
    assert build("leave-one-out", 3, 2, draws=7).values == 7


BATCH_LOGITS = torch.randn(3, 7, 3, 3, generator=seeded(1), dtype=torch.float64)
BATCH_LOGITS[..., 1, 2] = -INF
BATCH_CONTEXT = torch.randn(3, 7, FEATURES, generator=seeded(2), dtype=torch.float64)
DICE = table(waves(3, 3, 3))


@every_member
def test_gradient_is_pure(name, chosen):
    estimator = make(name, chosen, BATCH_LOGITS, f=DICE)
    before = {key: each.clone() for key, each in estimator.state_dict().items()}
    logits = BATCH_LOGITS.clone().requires_grad_()
    draw = estimator.sample(logits, generator=seeded(4))
    value = values_at(estimator, draw, DICE).requires_grad_()
    first, second = (
        estimator.gradient(draw, value, context=BATCH_CONTEXT, f=DICE) for _ in range(2)
    )
    with torch.no_grad():
        third = estimator.gradient(draw, value, context=BATCH_CONTEXT, f=DICE)
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    assert not first.requires_grad
    assert first.shape == logits.shape
    assert all(torch.equal(before[key], each) for key, each in estimator.state_dict().items())
    assert all(parameter.grad is None for parameter in estimator.parameters())
    assert logits.grad is None
    assert value.grad is None


def calls(estimator, draw, value, context):
    """What takes a draw, its value and a context."""
    return (
        lambda: estimator.gradient(draw, value, context=context, f=DICE),
        lambda: estimator.loss(draw, value, context=context, f=DICE),
    )


@every_member
def test_shapes_that_do_not_fit_are_refused(name, chosen):
    estimator = make(name, chosen, BATCH_LOGITS)
    draw = estimator.sample(BATCH_LOGITS, generator=seeded(4))
    value, context = values_at(estimator, draw, DICE), BATCH_CONTEXT
    K = estimator.values
    expected = r"\[3, 7\]" if K == 1 else rf"\[{K}, 3, 7\], the {K} values of each choice first"
    for wrong in (value[0], value.unsqueeze(-1), value[..., 1:]):
        for call in calls(estimator, draw, wrong, context)[: 1 + estimator.traits.trained]:
            with pytest.raises(ValueError, match=rf"^got a value of shape .*expected {expected}$"):
                call()
    if K > 1:
        single = type(draw)(*(each[0] for each in draw))
        with pytest.raises(ValueError, match=rf"needs {K} draws of each choice.*sample\(\)$"):
            estimator.gradient(single, value[0], context=context, f=DICE)
    for wrong, came in [
        (None, "no context"),
        (context[..., :1], r"context of shape \[3, 7, 1\]"),
        (context[0], r"context of shape \[7, 2\]"),
    ]:
        if not estimator.traits.context:
            estimator.gradient(draw, value, context=wrong, f=DICE)
            continue
        for call in calls(estimator, draw, value, wrong)[: 1 + estimator.traits.trained]:
            with pytest.raises(
                ValueError, match=rf"^got {came}; .*context=2 and expects \[3, 7, 2\]"
            ):
                call()


def test_a_member_of_ones_own_refuses_them_too():
    class Own(type(build("reinforce"))):
        def gradient(self, draw, value, *, context=None, f=None):
            return torch.zeros_like(draw.logits)

    draw = Own(1, 2).sample(torch.zeros(5, 1, 2))
    assert Own(1, 2).gradient(draw, torch.zeros(5)).shape == (5, 1, 2)
    with pytest.raises(ValueError, match=r"got a value of shape \[4\] for choices of shape \[5\]"):
        Own(1, 2).gradient(draw, torch.zeros(4))


@every_member
def test_rescale_keeps_the_estimate_in_proportion(name, chosen):
    # What a baseline or control variate learned in other units goes on to hold.
    if "normalise" in chosen:
        pytest.skip("divides by a deviation of at least one")
    estimator = make(name, chosen, BATCH_LOGITS, f=DICE)
    draw = estimator.sample(BATCH_LOGITS, generator=seeded(4))
    value = values_at(estimator, draw, DICE)
    before = estimator.gradient(draw, value, context=BATCH_CONTEXT, f=DICE)
    estimator.rescale(double([[2.5]]))
    after = estimator.gradient(draw, 2.5 * value, context=BATCH_CONTEXT, f=lambda x: 2.5 * DICE(x))
    torch.testing.assert_close(after, 2.5 * before, rtol=1e-11, atol=1e-11)


def elementwise(x):
    """An objective whose own bits do not depend on the batch."""
    flat = x.flatten(-2)
    return ((flat * torch.arange(1.0, 1 + flat.shape[-1]).to(x)).sum(-1) - 3.0).square()


def everything_of(estimator, logits, noise_pair, context, factor):
    """Estimate, gradients of the loss, and state afterwards, by name."""
    draw = estimator.sample(logits, noise_pair=noise_pair)
    value = values_at(estimator, draw, elementwise)
    found = {"u": estimator.gradient(draw, value, context=context, f=elementwise)}
    for direction in (None, (3 * context[..., :1, None]).expand_as(found["u"]).contiguous()):
        loss = estimator.loss(draw, value, context=context, f=elementwise, direction=direction)
        if loss is not None:
            grads = torch.autograd.grad(loss, list(estimator.parameters()))
            found |= {f"grad {i} {direction is None}": each for i, each in enumerate(grads)}
    estimator.observe(draw, value, context=context)
    estimator.rescale(factor)
    return found | dict(estimator.state_dict())


@pytest.mark.parametrize("shape", [(7, 3, 2), (33, 1, 3), (5, 7, 2, 5)], ids=str)
@every_member
def test_a_seed_gets_the_same_bits_alone_as_among_twenty(name, chosen, shape):
    rows, D, A = shape[:-2], *shape[-2:]
    logits = 2 * torch.randn(20, *rows, D, A, generator=seeded(1))
    logits[..., 0, 0] = torch.where(logits[..., 0, 0] > 2, -INF, logits[..., 0, 0])
    context = torch.randn(20, *rows, FEATURES, generator=seeded(2))
    twenty = make(name, chosen, logits, seeds=20, dtype=torch.float32)
    first = twenty.sample(logits, generator=seeded(3))
    pair = first.gumbel, first.second
    state = {key: each.clone() for key, each in twenty.state_dict().items()}
    factor = torch.linspace(0.5, 2, 20)[:, None]
    company = everything_of(twenty, logits, pair, context, factor)
    for i in (0, 13, 19):
        at = slice(i, i + 1)
        alone = make(name, chosen, logits[at], seeds=1, dtype=torch.float32)
        alone.load_state_dict({key: each[at] for key, each in state.items()})
        # The seed's axis comes after that of several draws.
        own = tuple(each.narrow(each.ndim - logits.ndim, i, 1).clone() for each in pair)
        found = everything_of(alone, logits[at].clone(), own, context[at].clone(), factor[at])
        assert found.keys() == company.keys()
        for key, each in found.items():
            assert torch.equal(each[0], company[key][i]), (key, i)


@every_member
def test_surrogate_has_the_value_of_f_and_the_gradient_of_the_estimate(name, chosen):
    estimator = make(name, chosen, BATCH_LOGITS, f=DICE)
    logits = BATCH_LOGITS.clone().requires_grad_()
    factor = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    draw = estimator.sample(logits, generator=seeded(4))
    plain = values_at(estimator, draw, DICE)
    inside = (factor * plain).detach()
    context = BATCH_CONTEXT
    u = estimator.gradient(draw, inside, context=context, f=lambda x: factor.detach() * DICE(x))
    mean = plain if estimator.values == 1 else plain.mean(0)
    first = surrogate(draw._replace(logits=logits), factor * mean, u)
    second = estimate(
        estimator, logits, lambda x: factor * DICE(x), context=context, generator=seeded(4)
    )
    for result in (first, second):
        assert result.shape == logits.shape[:-2]
        torch.testing.assert_close(result, 2 * mean, rtol=1e-13, atol=1e-13)
        at_logits, at_factor = torch.autograd.grad(result.sum(), [logits, factor])
        torch.testing.assert_close(at_logits, u, rtol=0, atol=0)
        torch.testing.assert_close(at_factor, mean.sum())


def test_surrogate_keeps_every_bit_of_the_value():
    # A shift of all logits changes nothing, so it must not round the value of f either.
    estimator = build("reinforce", 1, 3)
    logits = torch.tensor([[30000.0, 30001.0, 30000.5]]).repeat(50, 1, 1).requires_grad_()
    draw = estimator.sample(logits, generator=seeded(4))
    value = torch.linspace(-1, 1, 50)
    assert torch.equal(surrogate(draw, value, estimator.gradient(draw, value)), value)


@pytest.mark.parametrize("batch", [(), (1,), (4,), (2, 3)], ids=str)
@every_member
def test_estimate_accepts_any_batch(name, chosen, batch):
    logits = torch.zeros(*batch, 3, 2, requires_grad=True)
    estimator = make(name, chosen, logits, dtype=torch.float32)
    context = torch.ones(*batch, FEATURES)
    f = table(waves(2, 2, 2))
    result = estimate(estimator, logits, f, context=context, generator=seeded(0))
    assert result.shape == batch
    result.sum().backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@every_member
def test_extreme_and_masked_logits_stay_finite(name, chosen, dtype):
    rows = [[1e4, -1e4, 0], [-INF, 1e4, -1e4], [-INF, -INF, 2], [-1e4, 1e4, 1e4], [80, -80, -INF]]
    logits = torch.tensor(rows, dtype=dtype).repeat(40, 1).unsqueeze(1).requires_grad_()
    estimator = make(name, chosen, logits, dtype=dtype)
    context = torch.ones(len(logits), FEATURES, dtype=dtype)
    f = table(double([1, 3, 2]))
    for seed in range(3):
        draw = estimator.sample(logits, generator=seeded(seed))
        value = values_at(estimator, draw, f)
        u = estimator.gradient(draw, value, context=context, f=f)
        assert u.isfinite().all()
        assert not u[logits.isneginf()].any()
        loss = estimator.loss(draw, value, context=context, f=f)
        if loss is not None:
            grads = torch.autograd.grad(loss, list(estimator.parameters()), allow_unused=True)
            assert all(each.isfinite().all() for each in grads if each is not None)
        estimator.observe(draw, value, context=context)
        assert all(each.isfinite().all() for each in estimator.state_dict().values())
        result = estimate(estimator, logits, f, context=context, generator=seeded(seed))
        (at_logits,) = torch.autograd.grad(result.sum(), logits)
        assert at_logits.isfinite().all()
        assert result.isfinite().all()


@every_member
def test_trained_is_declared_exactly(name, chosen):
    estimator = make(name, chosen, BATCH_LOGITS)
    draw = estimator.sample(BATCH_LOGITS, generator=seeded(4))
    value = values_at(estimator, draw, DICE)
    loss = estimator.loss(draw, value, context=BATCH_CONTEXT, f=DICE)
    assert estimator.traits.trained == (loss is not None)
    assert estimator.traits.trained == any(True for _ in estimator.parameters())
    assert estimator.source


@trained_member
def test_loss_trains_every_parameter_and_nothing_else(name, chosen):
    # Mistakes 3 and 6: a control variate that is never stepped; a loss that leaks into the policy.
    estimator = make(name, chosen, BATCH_LOGITS, f=DICE)
    logits = BATCH_LOGITS.clone().requires_grad_()
    draw = estimator.sample(logits, generator=seeded(4))
    value = values_at(estimator, draw, DICE).requires_grad_()
    estimator.loss(draw, value, context=BATCH_CONTEXT, f=DICE).backward()
    assert logits.grad is None
    assert value.grad is None
    for parameter in estimator.parameters():
        assert parameter.grad.count_nonzero() > 0.5 * parameter.numel()


@every_member
def test_padding_does_not_count(name, chosen):
    rows = BATCH_LOGITS.flatten(0, 1)
    context = BATCH_CONTEXT.flatten(0, 1)
    whole, part = (make(name, chosen, rows, f=DICE) for _ in range(2))
    draw = whole.sample(rows, generator=seeded(4))
    value = values_at(whole, draw, DICE)
    keep = torch.arange(len(rows)) % 3 != 1
    weight = keep.double().expand_as(value)
    dropped = type(draw)(*(each[..., keep, :, :] for each in draw[:3]), draw.action[..., keep, :])
    results = []
    for estimator, d, v, x, w in [
        (whole, draw, value * torch.where(keep, 1.0, 1e3), context, weight),
        (part, dropped, value[..., keep], context[keep], None),
    ]:
        loss = estimator.loss(d, v, context=x, f=DICE, weight=w)
        grads = [] if loss is None else torch.autograd.grad(loss, list(estimator.parameters()))
        estimator.observe(d, v, context=x, weight=w)
        results.append([*grads, *estimator.state_dict().values()])
    for with_padding, without in zip(*results, strict=True):
        torch.testing.assert_close(with_padding, without, rtol=1e-12, atol=1e-12)


def test_unknown_names_and_options_name_the_nearest():
    with pytest.raises(UsageError, match=r"unknown estimator 'relaxx'; did you mean relax"):
        build("relaxx")
    with pytest.raises(
        UsageError, match=r"unknown estimator 'zzz'; there are .*reinforce, .*relax"
    ):
        build("zzz")
    with pytest.raises(UsageError, match=r"constant has no option 'decai'; did you mean decay"):
        build("constant", decai=0.5)
    with pytest.raises(UsageError, match=r"reinforce has no option 'decay'; there are none"):
        build("reinforce", decay=0.5)
    assert options("learned")["hidden"] == (32, 32)
    assert options("relax")["coupling"] == "coupled"


@pytest.mark.parametrize("name", ["exact", "muprop", "rebar", "gumbel-softmax", "reinmax"])
def test_an_f_that_does_not_give_one_value_for_each_choice_is_refused(name):
    estimator = build(name, 1, 4)
    draw = estimator.sample(torch.zeros(5, 1, 4), generator=seeded(0))
    for wrong in (lambda x: x.sum(-1), lambda x: x.sum()):
        with pytest.raises(ValueError, match=r"^f gave a value of shape .*expected \[5\], one for"):
            estimator.gradient(draw, torch.zeros(5), f=wrong)


@pytest.mark.parametrize("name", [n for n, each in ESTIMATORS.items() if each.traits.context])
def test_logits_of_another_size_than_built_for_are_refused(name):
    estimator = build(name, 1, 4)
    for shape in ([5, 2, 4], [5, 1, 3]):
        draw = build("reinforce").sample(torch.zeros(shape), generator=seeded(0))
        with pytest.raises(ValueError, match=r"built for 1 factors of 4 .*end in \[1, 4\]"):
            estimator.gradient(draw, torch.zeros(5))
