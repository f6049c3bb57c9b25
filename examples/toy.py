"""The toy of the REBAR and RELAX papers: minimise E[(b - 0.499)^2] over one Bernoulli's logit.

    python examples/toy.py [--steps 2000] [--plot toy.png]

b = 0 costs 0.249001 and b = 1 costs 0.251001, so the gradient is a five-hundredth of the values it
is made of: plain score-function estimates drown in their noise, and a control variate that learns
the level of f does not. The printed loss is the exact expectation.
"""

from __future__ import annotations

import argparse

import torch

from rlgrad.estimators import build, one_hot, surrogate

TARGET = 0.499
ROWS = 32  # choices per step
ESTIMATORS = ("reinforce", "rebar", "relax")


def f(choice: torch.Tensor) -> torch.Tensor:
    """(b - 0.499)^2 at choices ``[*batch, 1, 2]``: b is the weight of the second category."""
    return (choice[..., 0, 1] - TARGET) ** 2


def minimise(name: str, steps: int, every: int, seed: int) -> list[float]:
    """The exact loss, every so many steps."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    logit = torch.zeros((), requires_grad=True)
    estimator = build(name, factors=1, categories=2)
    theta = torch.optim.Adam([logit], lr=0.01)
    parameters = list(estimator.parameters())
    phi = torch.optim.Adam(parameters, lr=0.01) if parameters else None
    losses = []
    for step in range(steps + 1):
        if step % every == 0:
            p = logit.detach().sigmoid()
            losses.append(float(p * (1 - TARGET) ** 2 + (1 - p) * TARGET**2))
        logits = torch.stack([torch.zeros(()), logit]).expand(ROWS, 1, 2)  # [batch, D, A]
        draw = estimator.sample(logits, generator=generator)
        value = f(one_hot(draw))
        gradient = estimator.gradient(draw, value, f=f)
        theta.zero_grad()
        surrogate(draw, value, gradient).mean().backward()
        theta.step()
        if phi is not None:  # the control variate descends the variance of the gradient
            phi.zero_grad()
            estimator.loss(draw, value, f=f).backward()
            phi.step()
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", metavar="PNG", help="draw the curves")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    every = max(1, arguments.steps // 10)
    curves = {name: minimise(name, arguments.steps, every, arguments.seed) for name in ESTIMATORS}
    print("  step  " + "".join(f"{name:>12s}" for name in curves))
    for i, row in enumerate(zip(*curves.values(), strict=True)):
        print(f"{i * every:6d}  " + "".join(f"{loss:12.6f}" for loss in row))
    print(f"least possible: {TARGET**2:.6f}")
    if arguments.plot:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        figure, axis = plt.subplots(figsize=(5, 3))
        for name, losses in curves.items():
            axis.plot([i * every for i in range(len(losses))], losses, label=name)
        axis.axhline(TARGET**2, color="black", linewidth=0.8, linestyle=":")
        axis.set(xlabel="steps", ylabel="loss")
        axis.legend()
        figure.tight_layout()
        figure.savefig(arguments.plot, dpi=150)


if __name__ == "__main__":
    main()
