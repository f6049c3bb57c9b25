"""A VAE with discrete latents on scikit-learn's handwritten digits: which estimator trains it best?

    python examples/discrete_vae.py --estimator relax                # 32 Bernoulli latents
    python examples/discrete_vae.py --estimator rebar --latents 10 --categories 8

The bound on log p(x), in nats, of an encoder q(b|x) with logits l(x) and a decoder p(x|b):

    E_q [log p(x|b)]  -  KL(q(b|x) || p(b))

l enters twice. Through the choice b: f(b) = log p(x|b) does not contain l, so its mean is the only
thing that needs an estimator. And directly, through the KL term: factors are independent, so it is
a finite sum with an exact gradient by autograd. With -log q(b|x) inside f, as in some papers, f
itself would contain l; estimators hold f fixed, and lose E[d(-log q)/dl] = 0 at a price in noise.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from rlgrad.estimators import build, one_hot, surrogate

ESTIMATORS = [
    "reinforce", "learned", "muprop", "gumbel-softmax", "straight-through", "rebar", "relax",
    "relax-without-f",
]  # fmt: skip


def digits() -> Tensor:
    """1,797 images of 8x8 pixels, 0 or 1: ``[1797, 64]``."""
    images, _ = load_digits(return_X_y=True)
    return torch.from_numpy(images >= 8).float()


class VAE(nn.Module):
    """One layer of D factors of A categories between two linear maps."""

    def __init__(self, latents: int, categories: int, mean: Tensor) -> None:
        super().__init__()
        self.shape = (latents, categories)
        self.encoder = nn.Linear(64, latents * categories)
        self.decoder = nn.Linear(latents * categories, 64)
        self.prior = nn.Parameter(torch.zeros(self.shape))
        with torch.no_grad():  # start at the data's mean: half of what there is to learn
            self.decoder.bias.copy_(mean.clamp(0.01, 0.99).logit())
        self.mean = mean

    def logits(self, x: Tensor) -> Tensor:
        """q(b|x) ``[batch, D, A]``."""
        return self.encoder(2 * (x - self.mean)).unflatten(-1, self.shape)

    def likelihood(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """F: choices ``[batch, D, A]`` -> log p(x|b) ``[batch]``."""

        def f(choice: Tensor) -> Tensor:
            pixels = self.decoder(choice.flatten(-2))
            return -nn.functional.softplus(pixels * (1 - 2 * x)).sum(-1)

        return f

    def kl(self, logits: Tensor) -> Tensor:
        """KL(q(b|x) || p(b)) ``[batch]``, exact."""
        log_q = logits.log_softmax(-1)
        return (log_q.exp() * (log_q - self.prior.log_softmax(-1))).sum((-2, -1))

    @torch.no_grad()
    def bound(self, x: Tensor, samples: int, generator: torch.Generator) -> float:
        """Mean bound over the images x, by ``samples`` choices each, in nats."""
        logits, f, estimator = self.logits(x), self.likelihood(x), build("reinforce", *self.shape)
        draws = (estimator.sample(logits, generator=generator) for _ in range(samples))
        value = torch.stack([f(one_hot(draw)) for draw in draws]).mean()
        return float(value - self.kl(logits).mean())


def members(name: str, shape: tuple[int, int]) -> nn.ModuleList:
    """The estimator; for relax, as its paper has it where f is at hand, two that add up to it.

    (f(b) - c(z~)) score + dc(z) - dc(z~) is linear in c, so with c = eta f(softmax_tau z) + r(z, x)
    it is REBAR's estimate plus RELAX's of the value 0 with c = r, both at the same draw.
    """
    names = {"relax": ["rebar", "relax"], "relax-without-f": ["relax"]}.get(name, [name])
    return nn.ModuleList([build(each, *shape, context=64) for each in names])


def step(
    vae: VAE,
    estimators: nn.ModuleList,
    x: Tensor,
    optimiser: torch.optim.Optimizer,
    own: torch.optim.Optimizer | None,
    generator: torch.Generator,
) -> None:
    """One step of encoder, decoder and prior up the bound, and one of the estimator's own."""
    logits, f, context = vae.logits(x), vae.likelihood(x), x - vae.mean
    draw = estimators[0].sample(logits, generator=generator)
    value = f(one_hot(draw))
    credits = [value.detach(), torch.zeros_like(value)]
    parts = list(zip(estimators, credits, strict=False))
    gradient = sum(each.gradient(draw, credit, context=context, f=f) for each, credit in parts)
    if own is not None:  # each part descends the squared norm of the sum, or a baseline its error
        own.zero_grad()
        for each, credit in parts:
            each.loss(draw, credit, context=context, f=f, direction=gradient).backward()
        own.step()
    bound = surrogate(draw, value, gradient) - vae.kl(logits)
    optimiser.zero_grad()
    (-bound.mean()).backward()
    optimiser.step()


def train(
    name: str, shape: tuple[int, int], steps: int, seed: int, rate: float = 0.01, own: float = 0.01
) -> list[tuple[int, float]]:
    """Train and return ``[(step, bound on the training images), ...]``."""
    torch.manual_seed(seed)
    x, generator = digits(), torch.Generator().manual_seed(seed)
    vae, estimators = VAE(*shape, x.mean(0)), members(name, shape)
    theta = torch.optim.Adam(vae.parameters(), lr=rate)
    parameters = list(estimators.parameters())
    phi = torch.optim.Adam(parameters, lr=own) if parameters else None
    curve = []
    for i in range(1, steps + 1):
        batch = x[torch.randint(len(x), (64,), generator=generator)]
        step(vae, estimators, batch, theta, phi, generator)
        if i % max(1, steps // 10) == 0:
            curve.append((i, vae.bound(x, 10, generator)))
    return curve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--estimator", choices=ESTIMATORS, default="relax")
    parser.add_argument("--latents", type=int, default=32)
    parser.add_argument("--categories", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shape = arguments.latents, arguments.categories
    for i, bound in train(arguments.estimator, shape, arguments.steps, arguments.seed):
        print(f"{i:6d} steps: {bound:8.2f} nats")


if __name__ == "__main__":
    main()
