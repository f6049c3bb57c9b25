"""How far the agents' mean gradients are from the gradient of the return, on small MDPs.

    PYTHONPATH=tests python benchmarks/gradient_bias.py

The MDPs are those of ``tests/tabular.py``, the networks fixed and random. Printed is the distance
of the agent's mean gradient from the exact one, in per cent of the latter. Discounts and averages
are measured by running every trajectory through the engine once, weighted by its probability; what
bootstrapping and time limits add is computed (``tests/test_policy_gradient.py`` holds the engine to
it); relaxations are sampled.
"""

from __future__ import annotations

import torch
from tabular import MDPS, by_rows, exact, model, pull, usual, value
from tabular_agents import (
    MONTE_CARLO,
    SCALE,
    VARIANTS,
    Case,
    agent,
    config_of,
    know_the_rewards,
    mean_over_rows,
    policy_of,
    sampled_mean,
)
from torch import Tensor

NAMES = ("chain", "stairs", "pairs", "loop")
LANES, REPEATS = 4096, 16


def distance(found: Tensor, right: Tensor) -> float:
    """Per cent of the right one."""
    return 100 * float((found - right).norm() / right.norm())


def discounted(name: str, gamma: float) -> float:
    """Return to go without the factor gamma^t, against the discounted return."""
    case = Case("reinforce", name, signal="return-to-go", gamma=gamma)
    return 100 * case.gap(exact(case.m, case.pi, gamma))


def bootstrapped(name: str, decay: float) -> float:
    """A critic as far off as the values are large (root mean square over states)."""
    case = Case("actor-critic", name, gamma=1.0)
    right = value(case.m, case.pi, 1.0).detach()
    error = case.critic - right
    critic = right + error * right.norm() / error.norm()
    weighted = by_rows(case.m, case.pi, 1.0, critic, case.rows, decay=decay)
    return distance(case.pulled(weighted), case.pulled(usual(case.m, case.pi, 1.0)))


def truncated() -> tuple[float, float]:
    """A right critic at the limit of "loop", against the returns with and without the limit."""
    case, endless = Case("actor-critic", "loop", gamma=1.0), MDPS["loop"]._replace(limited=False)
    free = model(endless)
    critic = value(free, case.pi, 1.0).detach()
    found = case.pulled(by_rows(case.m, case.pi, 1.0, critic, case.rows))
    without = pull(free, case.pi, exact(free, case.pi, 1.0), case.parameters)[0]
    return distance(found, case.pulled(exact(case.m, case.pi, 1.0))), distance(found, without)


def averaged(name: str, lanes: int) -> float:
    """Divided by the number of rows of N episodes, against the mean length."""
    return distance(*mean_over_rows(Case("reinforce", name, **MONTE_CARLO), lanes))


def relaxed(variant: str) -> tuple[float, float]:
    """Through the right, linear Q of the chain; with its standard error."""
    mdp, m, (card, more) = MDPS["chain"], model(MDPS["chain"]), VARIANTS[variant]
    learner = agent(config_of(card, **more | MONTE_CARLO, hidden=()), mdp, LANES)
    know_the_rewards(learner)
    pi, parameters = policy_of(learner, mdp)
    mean, error = sampled_mean(learner, mdp, mdp.longest, REPEATS, seed=1)
    right = pull(m, pi, exact(m, pi, 1.0), parameters)[0] / SCALE
    return distance(mean, right), 100 * float(error.norm() / right.norm())


def line(what: str, numbers: list[float]) -> None:
    print(f"| {what} |", " | ".join(f"{number:.2f}" for number in numbers), "|")


def main() -> None:
    torch.set_num_threads(1)
    print("| per cent |", " | ".join(NAMES), "|")
    for gamma in (0.99, 0.9, 0.7):
        line(f"gamma^t omitted, gamma = {gamma}", [discounted(name, gamma) for name in NAMES])
    for lanes in (1, 8, 64):
        line(f"averaged over rows, N = {lanes}", [averaged(name, lanes) for name in NAMES])
    for decay in (1.0, 0.95, 0.5, 0.0):
        numbers = [bootstrapped(name, decay) for name in NAMES[:3]]
        line(f"bootstrapped, lambda = {decay}", numbers)
    limited, endless = truncated()
    print(f"right critic at a time limit: {limited:.1f} from the limited return,", end=" ")
    print(f"{endless:.1f} from the endless one")
    for variant in ("gumbel-softmax", "straight-through", "gumbel-rao", "reinmax"):
        off, error = relaxed(variant)
        print(f"{variant} through a right Q: {off:.1f} +- {error:.1f}")


if __name__ == "__main__":
    main()
