"""The table of problems: small enough that the gradient is known exactly."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rlgrad.errors import UsageError, nearest
from rlgrad.estimators.base import Objective
from rlgrad.problems.base import Problem

TARGET = 0.499
LARGEST = 1e6  # of an option; beyond, variances lose all their digits
# An 8x8 handwritten three, as in the digits data of scikit-learn: # is ink.
IMAGE = "..###... .#...#.. .....#.. ...##... .....#.. .....#.. .#...#.. ..###..."


def _double(numbers: list[Any]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def table(values: Tensor) -> Objective:
    """f(b_1 .. b_D) = values[b_1, .., b_D] with D <= 3, multilinear in relaxed choices."""
    letters = "abc"[: values.ndim]
    equation = ",".join(f"...{each}" for each in letters) + f",{letters}->..."
    return lambda x: torch.einsum(equation, *x.unbind(-2), values.to(x))


def waves(*shape: int) -> Tensor:
    """An arbitrary, non-separable table of values between -3 and 3."""
    index = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return (3 * torch.sin(1.7 * index**2 + 0.3)).view(shape)


def toy(logit: float = 0.0, noise: float = 0.0) -> Problem:
    """(b - 0.499)^2 for one Bernoulli b: the gradient is tiny, the scores are not."""
    return Problem(
        "toy",
        f"(b - {TARGET})^2, one Bernoulli of logit {logit:g}",
        "Tucker et al. 2017, arXiv:1703.07370; Grathwohl et al. 2018, arXiv:1711.00123",
        _double([[0.0, logit]]),
        lambda x: (x[..., 0, 1] - TARGET) ** 2,
        noise,
        free=torch.tensor([[False, True]]),
    )


def bandit(noise: float = 0.0) -> Problem:
    """Four arms of rewards 1, 3, 2, 5: more than a baseline is needed."""
    rewards = table(_double([1, 3, 2, 5]))
    logits = _double([[0.5, 0.0, -0.5, 0.3]])
    return Problem("bandit", "four arms of rewards 1, 3, 2, 5", "-", logits, rewards, noise)


def coins(noise: float = 0.0) -> Problem:
    """Three coins with an arbitrary value for each of the 8 outcomes."""
    logits = _double([[0.4, -0.3], [0.0, 1.0], [-0.6, 0.2]])
    return Problem("coins", "three coins, 8 values", "-", logits, table(waves(2, 2, 2)), noise)


def dice(noise: float = 0.0) -> Problem:
    """Three dice of three sides with an arbitrary value for each of the 27 outcomes."""
    logits = _double([[0.5, -0.2, 0.1], [1.0, 0.0, -0.7], [-0.3, 0.3, 0.6]])
    return Problem("dice", "three dice, 27 values", "-", logits, table(waves(3, 3, 3)), noise)


def digits(noise: float = 0.0) -> Problem:
    """The likelihood term of a small VAE's bound: 8 Bernoulli latents, one image, in nats.

    The decoder adds a smooth wave over the 8x8 pixels for each latent that is on, so that the
    objective needs no data and no training. The term -KL(q || prior) of the bound has an exact
    gradient and is no part of f.
    """
    image = _double([float(c == "#") for c in IMAGE.replace(" ", "")])
    at = (torch.arange(8, dtype=torch.float64) + 0.5) * math.pi / 8
    order = [(1, 0), (0, 1), (1, 1), (2, 0), (0, 2), (2, 1), (1, 2), (2, 2)]
    basis = torch.stack([torch.outer((i * at).cos(), (j * at).cos()).flatten() for i, j in order])

    def likelihood(x: Tensor) -> Tensor:
        pixels = (3 * x[..., 1] - 1) @ basis.to(x) - 1
        return -torch.nn.functional.softplus(pixels * (1 - 2 * image.to(x))).sum(-1)

    latent = torch.arange(8, dtype=torch.float64)
    logits = torch.stack([torch.zeros_like(latent), torch.sin(2.3 * latent + 1)], -1)
    return Problem(
        "digits",
        "log likelihood of one 8x8 image under 8 Bernoulli latents, nats",
        "-",
        logits,
        likelihood,
        noise,
        free=torch.tensor([[False, True]]).expand(8, 2),
    )


PROBLEMS: dict[str, Callable[..., Problem]] = {
    "toy": toy,
    "bandit": bandit,
    "coins": coins,
    "dice": dice,
    "digits": digits,
}


def problem(name: str, **chosen: float) -> Problem:
    """A problem of the table.

    Args:
        name: one of ``PROBLEMS``.
        **chosen: its options, such as ``noise``.

    Raises:
        UsageError: for an unknown name or option, with the nearest known ones.
    """
    if name not in PROBLEMS:
        raise UsageError(f"unknown problem {name!r}; {nearest(name, PROBLEMS)}")
    known = inspect.signature(PROBLEMS[name]).parameters
    for key, value in chosen.items():
        if key not in known:
            raise UsageError(f"problem {name} has no option {key!r}; {nearest(key, known)}")
        least = 0.0 if key == "noise" else -LARGEST
        if not least <= value <= LARGEST:
            raise UsageError(f"got {key} = {value:g}; expected {least:g} to {LARGEST:g}")
    return PROBLEMS[name](**chosen)
