"""Hard attention: look at one cell of a picture, chosen from a blurred view, and name its digit.

    python examples/hard_attention.py [--estimator relax] [--steps 3000]

A picture is a row of six cells; one holds a handwritten digit, the others the pixels of digits in
random order. The glance sees every cell at a quarter of the resolution and puts a distribution
over the cells; one is drawn, and the reader sees that cell alone, in full. What the choice is worth
is f(b) = log p(label | cell b). Only the chosen cell is ever read, so f is known at one choice and
there is nothing to differentiate: a task for RELAX, whose control variate sees what the glance saw.
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from rlgrad.estimators import build, surrogate

CELLS = 6


def pictures(
    images: Tensor, labels: Tensor, rows: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures ``[rows, CELLS, 64]``, where their digit is ``[rows]``, which digit."""
    index = torch.randint(len(images), (rows, CELLS), generator=generator)
    cells = images[index]
    order = torch.rand(cells.shape, generator=generator).argsort(-1)
    where = torch.randint(CELLS, (rows,), generator=generator)
    order[torch.arange(rows), where] = torch.arange(64)
    return cells.gather(-1, order), where, labels[index[torch.arange(rows), where]]


def blurred(cells: Tensor) -> Tensor:
    """Means of 2x2 pixels: ``[rows, CELLS, 64]`` -> ``[rows, CELLS, 16]``."""
    return nn.functional.avg_pool2d(cells.unflatten(-1, (8, 8)), 2).flatten(-2)


def network(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, outputs))


def train(name: str, steps: int, seed: int, rows: int = 64) -> list[tuple[int, float, float]]:
    """``[(step, share of pictures looked at in the right place, share named rightly), ...]``."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    images, labels = (torch.from_numpy(each) for each in load_digits(return_X_y=True))
    images = images.float() / 16
    glance, reader = network(16, 1), network(64, 10)
    estimator = build(name, factors=1, categories=CELLS, context=16 * CELLS)
    theta = torch.optim.Adam([*glance.parameters(), *reader.parameters()], lr=0.003)
    parameters = list(estimator.parameters())
    phi = torch.optim.Adam(parameters, lr=0.003) if parameters else None
    right, curve = torch.zeros(2), []
    every = max(1, steps // 10)
    for step in range(1, steps + 1):
        cells, where, label = pictures(images, labels, rows, generator)
        view = blurred(cells)
        logits = glance(view).transpose(-1, -2)  # [rows, D = 1, A = CELLS]
        draw = estimator.sample(logits, generator=generator)
        chosen = draw.action.squeeze(-1)
        read = reader(cells[torch.arange(rows), chosen]).log_softmax(-1)
        value = read[torch.arange(rows), label]  # f(b) [rows], attached to the reader
        context = view.flatten(-2)
        gradient = estimator.gradient(draw, value.detach(), context=context)
        theta.zero_grad()
        (-surrogate(draw, value, gradient)).mean().backward()
        theta.step()
        if phi is not None:
            phi.zero_grad()
            estimator.loss(draw, value.detach(), context=context).backward()
            phi.step()
        estimator.observe(draw, value.detach(), context=context)
        hits = torch.stack([chosen == where, read.argmax(-1) == label]).float().mean(-1)
        right += hits / every
        if step % every == 0:
            curve.append((step, *right.tolist()))
            right = torch.zeros(2)
    return curve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--estimator", choices=["reinforce", "learned", "relax"], default="relax")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for step, place, digit in train(arguments.estimator, arguments.steps, arguments.seed):
        print(f"{step:6d} steps: right place {place:6.1%}, right digit {digit:6.1%}")


if __name__ == "__main__":
    main()
