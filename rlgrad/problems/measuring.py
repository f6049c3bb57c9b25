"""Every estimator that a problem can serve: its bias, variance and cost at the problem's logits.

All meet the same noise, as far as they take the same amount of it. Trained ones are listed before
and after training on fresh draws by their own ``loss``; running statistics are fitted on earlier
draws; then all is frozen and measured on draws that nothing was fitted to.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from rlgrad.errors import UsageError
from rlgrad.estimators import ESTIMATORS, Estimator, build, measure, one_hot, options
from rlgrad.estimators.build import lookup
from rlgrad.estimators.objective import values_at
from rlgrad.estimators.traits import Traits
from rlgrad.problems.base import Problem
from rlgrad.problems.results import Refusal, Result, Table

# Options worth a row of their own, by what the row is called beside the estimator's name.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "constant": {
        "": {"constant": "mean", "decay": 1.0},
        "optimal": {"constant": "optimal", "decay": 1.0},
        "per logit": {"constant": "optimal-per-logit", "decay": 1.0},
    },
    "leave-one-out": {"": {"draws": 2}, "of 4": {"draws": 4}},
    "learned": {
        "": {},
        "on variance": {"objective": "variance"},
        "per logit": {"objective": "variance", "per_logit": True},
    },
    # At fixed logits z itself serves c better than its softmax does.
    "relax": {"": {"temperature": 0.0, "coupling": "independent"}},
}
CHUNK = 1 << 14
BATCH, RATE = 256, 0.02
EARLIER, BATCHES = 1 << 16, 16
ROUNDING = 1e-14  # of the sums that a variance is formed from


def refusal(traits: Traits, problem: Problem) -> str | None:
    """Why the problem cannot serve an estimator; None where it can."""
    categories = problem.logits.shape[-1]
    if traits.binary and categories != 2:
        return f"needs factors of 2 categories, {problem.name} has {categories}"
    if traits.enumerable and not problem.enumerable:
        return f"needs every choice, {problem.name} has {problem.choices:.3g}"
    if traits.differentiable and not problem.differentiable:
        return f"needs a differentiable f, that of {problem.name} is not"
    return None


def fit(estimator: Estimator, problem: Problem, steps: int, generator: torch.Generator) -> None:
    """Train by ``loss`` for ``steps`` batches, then fit the running statistics on fresh draws."""
    f = problem.observed(generator)
    parameters = [each for each in estimator.parameters() if each.requires_grad]
    if parameters and steps:
        optimiser = torch.optim.Adam(parameters, lr=RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        logits = problem.logits.expand(BATCH, *problem.logits.shape)
        for _ in range(steps):
            draw = estimator.sample(logits, generator=generator)
            value = values_at(estimator, draw, f)
            optimiser.zero_grad()
            loss = estimator.loss(draw, value, f=f)
            assert loss is not None
            loss.backward()
            optimiser.step()
            schedule.step()
    if not estimator.observes:
        return
    rows = problem.logits.expand(EARLIER // BATCHES, *problem.logits.shape)
    for _ in range(BATCHES):  # some judge what they fitted on batches that come after
        draw = estimator.sample(rows, generator=generator)
        estimator.observe(draw, values_at(estimator, draw, f))


def made(name: str, chosen: dict[str, Any], problem: Problem, seed: int) -> Estimator:
    """A member for the problem, initialised from the seed and scaled to the size of f."""
    generator = torch.Generator().manual_seed(seed)
    if "scale" in options(name):
        rows = problem.logits.expand(1024, *problem.logits.shape)
        draw = build("reinforce", *problem.logits.shape).sample(rows, generator=generator)
        size = problem.observed(generator)(one_hot(draw)).square().mean().sqrt()
        chosen = {"scale": float(size), **chosen}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(name, *problem.logits.shape, **chosen).to(problem.logits.dtype)


def _result(
    estimator: Estimator, problem: Problem, draws: int, seed: int, exact: Tensor | None
) -> dict[str, Any]:
    """The numbers of a ``Result``."""
    f = problem.observed(torch.Generator().manual_seed(seed + 1))
    generator = torch.Generator().manual_seed(seed)
    if estimator.traits.enumerable:
        draws = max(2, draws // problem.choices)
    started = time.perf_counter()
    measured = measure(estimator, problem.logits, f, draws, generator=generator, chunk=CHUNK)
    seconds = time.perf_counter() - started
    mean, error = (problem.counted(x) for x in (measured.mean, measured.standard_error))
    variance = float(error.square().sum()) * draws
    if variance < ROUNDING * float(mean.square().sum()):
        variance = 0.0
    true = mean if exact is None else problem.counted(exact)
    z_scores = None if exact is None else problem.counted(measured.z_scores(exact))
    return {
        "evaluations": measured.evaluations,
        "bias": None if exact is None else float((mean - true).norm()),
        "z": None if z_scores is None else float(z_scores.abs().max()),
        "variance": variance,
        "signal_to_noise": float(true.square().sum()) / variance if variance else math.inf,
        "microseconds": 1e6 * seconds / draws,
    }


def measure_all(
    problem: Problem,
    estimators: Iterable[str] | None = None,
    *,
    draws: int = 100_000,
    train_steps: int = 1000,
    seed: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> Table:
    """Bias, variance and cost of estimators on a problem.

    Args:
        problem: from ``problem(name)``, or one's own.
        estimators: names; None: all there are.
        draws: estimates that each is measured on.
        train_steps: batches of 256 draws that trained estimators learn from; 0: none is trained.
        seed: of all noise.
        progress: called with a line about what is being done.

    Returns:
        The rows by variance, and the estimators that the problem cannot serve.

    Raises:
        UsageError: for an unknown estimator, or where none of them can be served.
    """
    names = list(dict.fromkeys(ESTIMATORS if estimators is None else estimators))
    refused = [
        Refusal(name, reason)
        for name in names
        if (reason := refusal(lookup(name).traits, problem)) is not None
    ]
    if len(refused) == len(names):
        raise UsageError("; ".join(f"estimator {r.estimator} {r.reason}" for r in refused))
    mean, gradient = problem.exact() if problem.enumerable else (None, None)
    results = []
    for name in (name for name in names if name not in {r.estimator for r in refused}):
        trained = lookup(name).traits.trained
        for variant, chosen in VARIANTS.get(name, {"": {}}).items():
            for stage in (False, True)[: 1 + bool(train_steps)] if trained else (None,):
                progress(f"{name} {variant}".strip() + (", training" if stage else ""))
                estimator = made(name, chosen, problem, seed)
                if stage is not False:
                    fit(estimator, problem, train_steps, torch.Generator().manual_seed(seed + 2))
                numbers = _result(estimator, problem, draws, seed + 3, gradient)
                unbiased = estimator.traits.unbiased
                results.append(Result(name, variant, chosen, stage, unbiased, **numbers))
    results.sort(key=lambda r: r.variance)
    expected = None if mean is None else float(mean)
    return Table(problem, draws, train_steps, expected, gradient, results, refused)
