"""Problems whose gradient is known exactly, and the statistics that all estimator tests share.

Chance of failing by luck: |z| > 6.5 has probability 8.0e-11 for a normal variable; the whole suite,
slow tests included, makes fewer than 10,000 such comparisons, so one of them fails by luck with
probability below 10,000 x 8.0e-11 = 8e-7 < 1e-6. Kolmogorov-Smirnov: P(sqrt(nm/(n+m)) D > 3.7) is
below 2 exp(-2 x 3.7^2) = 2.6e-12; 100 comparisons add 3e-10.
Seed rule: a test seeds its own generator with the literal that it shows, nothing draws from torch's
global stream unseeded, and no seed was chosen by its outcome.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from rlgrad.estimators import ESTIMATORS, Draw, Estimator, build, measure, one_hot
from rlgrad.estimators.base import Objective
from rlgrad.estimators.objective import values_at
from rlgrad.problems import problem
from rlgrad.problems.catalogue import table, waves

torch.set_num_threads(1)  # the machines that run the tests have two cores, shared

Z_BOUND = 6.5
KS_BOUND = 3.7
INF = float("inf")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Problem(NamedTuple):
    logits: Tensor
    """``[D, A]`` float64."""
    f: Objective
    """Without noise."""
    noise: float = 0.0

    def observed(self, generator: torch.Generator) -> Objective:
        """F with fresh reward noise at every call, as an environment gives it."""

        def noisy(x: Tensor) -> Tensor:
            f = self.f(x)
            return f + self.noise * torch.randn(f.shape, dtype=f.dtype, generator=generator)

        return noisy if self.noise else self.f

    def exact(self) -> Tensor:
        """D E[f] / d logits, by autograd through the sum of p(b) f(b): no score is involved."""
        logits = self.logits.clone().requires_grad_()
        factors, categories = logits.shape
        eye = torch.eye(categories, dtype=logits.dtype)
        mean = torch.zeros((), dtype=logits.dtype)
        p = logits.softmax(-1)
        for choice in itertools.product(range(categories), repeat=factors):
            probability = torch.stack([p[d, a] for d, a in enumerate(choice)]).prod()
            mean = mean + probability * self.f(eye[list(choice)])
        return torch.autograd.grad(mean, logits)[0]


def double(numbers: list) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


BANDIT_LOGITS, BANDIT_F = problem("bandit").logits, problem("bandit").f


def bandit(noise: float = 0.0) -> Problem:
    return Problem(BANDIT_LOGITS, BANDIT_F, noise)


def bernoulli_toy(logit: float) -> Problem:
    """(b - 0.499)^2 with b the index of the category."""
    toy = problem("toy", logit=logit)
    return Problem(toy.logits, toy.f)


COINS_LOGITS, DICE_LOGITS = problem("coins").logits, problem("dice").logits

PROBLEMS = {
    "coin": Problem(double([[0.4, -0.3]]), table(double([2, -1]))),
    "bandit": bandit(),
    "noisy-bandit": bandit(1.0),
    "masked-bandit": Problem(double([[0.5, 0.0, -INF, 0.3]]), BANDIT_F),
    "coins": Problem(COINS_LOGITS, table(waves(2, 2, 2))),
    "dice": Problem(DICE_LOGITS, table(waves(3, 3, 3)), noise=0.5),
    "masked-dice": Problem(
        double([[0.5, -0.2, 0.1], [1.0, -INF, -0.7], [-0.3, 0.3, -INF]]), table(waves(3, 3, 3))
    ),
}

# Those that every member meets in a million draws, and in which precision.
MANY_DRAWS = {
    "coin": torch.float32, "noisy-bandit": torch.float64, "masked-dice": torch.float32,
}  # fmt: skip


def network(x: Tensor) -> Tensor:
    """A small tanh network of relaxed choices ``[*batch, 2, 3]``: smooth, nowhere quadratic."""
    first, second = waves(6, 5).to(x), waves(5).to(x)
    return (x.flatten(-2) @ first).tanh() @ second


# Not multilinear: what f is between the choices matters to those that differentiate it.
SMOOTH = {
    "toy": Problem(COINS_LOGITS, lambda x: (x[..., 1].sum(-1) - 0.499) ** 2),
    "network": Problem(DICE_LOGITS[:2], network),
    "masked-network": Problem(double([[0.5, -0.2, 0.1], [1.0, -INF, -0.7]]), network),
}


def enumerated(estimator: Estimator, problem: Problem) -> tuple[Tensor, float]:
    """Exact mean ``[D, A]`` and total variance of an estimator that sees nothing but b."""
    draw, p = every_choice(problem.logits)
    u = estimator.gradient(draw, problem.f(one_hot(draw)), f=problem.f)
    weight = p[:, None, None]
    mean = (weight * u).sum(0)
    return mean, float((weight * (u - mean) ** 2).sum())


def worst_z(
    estimator: Estimator,
    problem: Problem,
    draws: int,
    seed: int,
    *,
    context: Tensor | None = None,
    rescaled: float = 1.0,
) -> float:
    """The largest |z| of the mean estimate against the exact gradient.

    The rounding of one estimate is added to the error, for members whose variance is zero.
    """
    logits = problem.logits if context is None else problem.logits.to(context.dtype)
    generator = seeded(seed)
    measured = measure(
        estimator,
        logits,
        problem.observed(generator),
        draws,
        context=context,
        generator=generator,
        chunk=1 << 13,
    )
    gap = measured.mean - problem.exact() / rescaled
    rounding = 64 * torch.finfo(logits.dtype).eps
    return float((gap.abs() / (measured.standard_error + rounding)).max())


def z_of_mean(estimates: Tensor, exact: Tensor) -> float:
    """The largest |z| over all entries of the mean of ``[n, ...]`` against ``exact``."""
    n = estimates.shape[0]
    error = estimates.std(0) / n**0.5 + 1e-13
    return float(((estimates.mean(0) - exact).abs() / error).max())


def ks(x: Tensor, y: Tensor) -> float:
    """Two-sample Kolmogorov-Smirnov statistic, times sqrt(nm / (n + m))."""
    n, m = len(x), len(y)
    both = torch.cat([x, y])
    order = both.argsort()
    step = torch.cat([torch.full((n,), 1 / n), torch.full((m,), -1 / m)]).double()
    gap = step[order].cumsum(0).abs().max()
    return float(gap) * (n * m / (n + m)) ** 0.5


def every_choice(logits: Tensor, draws: int = 1) -> tuple[Draw, Tensor]:
    """All n joint choices at logits ``[D, A]`` and their probabilities ``[n]``.

    With several draws: all n^K tuples of choices, K first. Weighted by the probabilities, the mean
    over these rows is an expectation, for members that use no noise but the choice.
    """
    D, A = logits.shape
    single = torch.tensor(list(itertools.product(range(A), repeat=D)))
    tuples = torch.tensor(list(itertools.product(range(len(single)), repeat=draws))).T
    action = single[tuples]
    p = logits.softmax(-1)[torch.arange(D), action].prod(-1).prod(0)
    action = action if draws > 1 else action[0]
    rows = logits.expand(*action.shape[:-1], D, A)
    return Draw(rows, torch.zeros_like(rows), torch.ones_like(rows), action), p


def moments(u: Tensor, p: Tensor) -> tuple[Tensor, float]:
    """(mean ``[D, A]``, total variance) of estimates ``[n, D, A]`` of probability p ``[n]``."""
    weight = p[:, None, None]
    mean = (weight * u).sum(0)
    return mean, float((weight * (u - mean) ** 2).sum())


def fitted(
    estimator: Estimator, problem: Problem, steps: int, batch: int, rate: float
) -> Estimator:
    """The member after Adam on its loss, on fresh draws without a context; in float64 then."""
    generator = seeded(1)
    optimiser = torch.optim.Adam(estimator.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    logits, f = problem.logits.float().expand(batch, -1, -1), problem.observed(generator)
    for _ in range(steps):
        draw = estimator.sample(logits, generator=generator)
        optimiser.zero_grad()
        estimator.loss(draw, f(one_hot(draw))).backward()
        optimiser.step()
        schedule.step()
    return estimator.double()


def slope_of_squared_norm(
    estimator: Estimator, draw: Draw, value: Tensor, context: Tensor | None, step: Tensor
) -> float:
    """Finite difference of mean |u|^2, in its one parameter, along ``step`` at common noise."""
    (flat,) = estimator.parameters()

    def norm(h: float) -> float:
        with torch.no_grad():
            flat.add_(h * step)
            u = estimator.gradient(draw, value, context=context)
            flat.sub_(h * step)
        return float(u.square().sum((-2, -1)).mean())

    return (norm(1e-5) - norm(-1e-5)) / 2e-5


def randomise(estimator: Estimator, generator: torch.Generator) -> None:
    """Arbitrary parameters, far from the zero heads that would make a test of the mean vacuous."""
    with torch.no_grad():
        for parameter in estimator.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))


VARIANTS = {
    "constant": [
        {"constant": "mean"},
        {"constant": "optimal"},
        {"constant": "optimal-per-logit", "decay": 1.0},
    ],
    "leave-one-out": [{}, {"draws": 5}],
    "learned": [
        {},
        {"centre": True},
        {"centre": True, "normalise": True, "scale": 2.0},
        {"objective": "variance", "scale": 2.0},
        {"objective": "variance", "per_logit": True},
    ],
    "all-action-control": [{"objective": "variance", "scale": 2.0}, {"objective": "regression"}],
    "gumbel-softmax": [{"temperature": 0.5}, {"temperature": 0.05}],
    "gumbel-rao": [{"draws": 1}, {"draws": 5}],
    "rebar": [{"coupling": "coupled"}, {"coupling": "independent", "temperature": 0.2}],
    "relax": [
        {"coupling": coupling, "temperature": temperature}
        for coupling in ("coupled", "independent")
        for temperature in (0.5, 0.0)
    ],
    "relax-linear": [
        {"form": form, "coupling": coupling}
        for form, coupling in [
            ("relaxed", "coupled"),
            ("relaxed", "independent"),
            ("exact-sum", "coupled"),
        ]
    ],
}
MEMBERS = [
    pytest.param(name, chosen, id="-".join([name, *map(str, chosen.values())]))
    for name in ESTIMATORS
    for chosen in VARIANTS.get(name, [{}])
]
TRAINED = [each for each in MEMBERS if ESTIMATORS[each.values[0]].traits.trained]
every_member = pytest.mark.parametrize(("name", "chosen"), MEMBERS)
trained_member = pytest.mark.parametrize(("name", "chosen"), TRAINED)
FEATURES = 2


def make(name, chosen, logits, seeds=None, dtype=torch.float64, f=None, seed=5):
    """A member with random parameters and, given f, with statistics of earlier draws at logits."""
    if ESTIMATORS[name].traits.binary and logits.shape[-1] != 2:
        pytest.skip("serves factors of two categories")
    estimator = build(name, *logits.shape[-2:], FEATURES, seeds, **chosen).to(dtype)
    generator = seeded(seed)
    randomise(estimator, generator)
    if f is not None:
        rows = logits.to(dtype) if logits.ndim > 2 else logits.to(dtype).expand(1500, -1, -1)
        context = torch.randn(*rows.shape[:-2], FEATURES, generator=generator).to(dtype)
        draw = estimator.sample(rows, generator=generator)
        for _ in range(2):  # the second time with what was learned the first time
            estimator.observe(draw, values_at(estimator, draw, f), context=context)
    return estimator


def relax_oracle(control, draw, value, context, coupling, mistake=None):
    """RELAX by autograd, attached to c's parameters; ``mistake`` makes it one of public code."""
    logits = draw.logits.detach().requires_grad_()
    log_p, hot, e = logits.log_softmax(-1), one_hot(draw), draw.second
    weights = logits.exp() if mistake == "unnormalised" else log_p.exp()
    if mistake == "another action":
        other = (log_p + draw.second.log()).argmin(-1)  # any action but the one that was executed
        hot = torch.nn.functional.one_hot(other, logits.shape[-1]).to(logits)
    top = (e * hot).sum(-1, keepdim=True)
    below = -(e / weights + (e if mistake == "wrong index" else top)).log()
    tilde = torch.where(hot > 0, -top.log(), below)
    noise = draw.gumbel if coupling == "independent" else (tilde - log_p).detach()
    c, c_tilde = control(log_p + noise, context).sum(), control(tilde, context)
    score = one_hot(draw) - log_p.exp().detach()
    u = (value - control(tilde.detach(), context))[..., None, None] * score
    if mistake != "detached z":
        u = u + torch.autograd.grad(c, logits, create_graph=True)[0]
    if mistake == "attached":  # c~ attached inside the score term: adds -log p(b) dc~
        log_prob = (log_p * one_hot(draw)).sum((-2, -1)).detach()
        extra = (log_prob * c_tilde).sum()
        u = u - torch.autograd.grad(extra, logits, create_graph=True)[0]
    if mistake != "no tilde":
        share = 0.5 if mistake == "scaled" else 1.0
        u = u - share * torch.autograd.grad(c_tilde.sum(), logits, create_graph=True)[0]
    return u
