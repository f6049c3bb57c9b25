"""A VQ-VAE on scikit-learn's handwritten digits, trained straight through its quantiser.

    python examples/vq_vae.py [--quantiser nearest|sampled] [--steps 3000]

The encoder gives D vectors per image; each is replaced by one of A codes, and the decoder draws the
image from the codes. The replacement has no derivative, and both ways around it are biased:

* nearest: the nearest code, as in the paper (van den Oord et al. 2017, arXiv:1711.00937). The
  gradient at the code is copied to the encoder's vector; the codes follow the vectors by a squared
  distance of their own, and a commitment term keeps the vectors near.
* sampled: a code drawn with logits -|vector - code|^2, and rlgrad's straight-through estimator for
  the gradient at these logits; both vectors and codes learn through them, no extra terms needed.

Either way an image is D numbers below A in the end; the printed loss is of nearest codes.
"""

from __future__ import annotations

import argparse

import torch
from discrete_vae import digits
from torch import Tensor, nn

from rlgrad.estimators import build, estimate

COMMITMENT = 0.25


class VQVAE(nn.Module):
    """D vectors of E numbers per image, A codes."""

    def __init__(self, factors: int = 8, codes: int = 16, width: int = 8) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.randn(codes, width))
        self.encoder = nn.Sequential(
            nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, factors * width),
            nn.Unflatten(-1, (factors, width)),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Flatten(-2), nn.Linear(factors * width, 64), nn.ReLU(), nn.Linear(64, 64)
        )
        self.straight_through = build("straight-through", factors, codes, temperature=1.0)

    def distance(self, vectors: Tensor) -> Tensor:
        """|vector - code|^2: ``[batch, D, E]`` -> ``[batch, D, A]``."""
        return (vectors.unsqueeze(-2) - self.codes).square().sum(-1)

    def likelihood(self, x: Tensor, quantised: Tensor) -> Tensor:
        """Log p(x | codes) ``[batch]`` in nats."""
        return -nn.functional.softplus(self.decoder(quantised) * (1 - 2 * x)).sum(-1)

    def nearest(self, x: Tensor) -> Tensor:
        """The loss of the paper ``[batch]``."""
        vectors = self.encoder(x)
        code = self.codes[self.distance(vectors).argmin(-1)]
        copied = vectors + (code - vectors).detach()  # the code's value, the vector's gradient
        follow = (code - vectors.detach()).square().sum((-2, -1))
        commit = (code.detach() - vectors).square().sum((-2, -1))
        return follow + COMMITMENT * commit - self.likelihood(x, copied)

    def sampled(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Minus the likelihood at sampled codes ``[batch]``, by the straight-through estimator."""
        logits = -self.distance(self.encoder(x))
        return -estimate(
            self.straight_through,
            logits,
            lambda choice: self.likelihood(x, choice @ self.codes),
            generator=generator,
        )

    @torch.no_grad()
    def evaluate(self, x: Tensor) -> tuple[float, int]:
        """Mean log likelihood in nats with nearest codes, and how many codes are in use."""
        index = self.distance(self.encoder(x)).argmin(-1)
        return float(self.likelihood(x, self.codes[index]).mean()), len(index.unique())


def train(quantiser: str, steps: int, seed: int) -> list[tuple[int, float, int]]:
    """``[(step, log likelihood, codes in use), ...]`` on the training images."""
    torch.manual_seed(seed)
    x, generator = digits(), torch.Generator().manual_seed(seed)
    model = VQVAE()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.003)
    curve = []
    for step in range(1, steps + 1):
        batch = x[torch.randint(len(x), (64,), generator=generator)]
        loss = model.nearest(batch) if quantiser == "nearest" else model.sampled(batch, generator)
        optimiser.zero_grad()
        loss.mean().backward()
        optimiser.step()
        if step % max(1, steps // 10) == 0:
            curve.append((step, *model.evaluate(x)))
    return curve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quantiser", choices=["nearest", "sampled"], default="nearest")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for step, likelihood, used in train(arguments.quantiser, arguments.steps, arguments.seed):
        print(f"{step:6d} steps: log likelihood {likelihood:7.2f} nats, {used} codes in use")


if __name__ == "__main__":
    main()
