"""Small tabular MDPs, and their policy gradients by dynamic programming in float64.

Nothing of rlgrad is used: values, visits and credits solve linear systems, or recur over the rows
of a rollout. Letters: X states, J joint actions (of D factors with A categories), K outcomes of a
step, F features. A policy is a table ``[X, J]`` attached to whatever the gradient is taken for.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

torch.set_num_threads(1)


class Tabular(NamedTuple):
    start: Tensor
    """``[X]`` probabilities."""
    probability: Tensor
    """``[X, J, K]`` of each outcome."""
    successor: Tensor
    """``[X, J, K]`` int64, X is the end."""
    reward: Tensor
    """``[X, J, K]``, multiples of 1/8, which float32 holds exactly."""
    features: Tensor
    """``[X + 1, F]`` observed; the row of the end is absurd, and nobody should look at it."""
    sizes: tuple[int, ...]
    """(A,) x D."""
    longest: int
    """Steps of the longest episode."""
    limited: bool = False
    """Whether longer episodes are truncated there; else the end comes by itself."""
    mask: Tensor | None = None
    """``[X + 1, D, A]`` bool, the categories that are allowed; None: all."""

    def allows(self, x: int, j: int) -> bool:
        """Whether joint action j may be taken in state x."""
        if self.mask is None:
            return True
        factors = np.unravel_index(j, self.sizes)
        return all(bool(row[a]) for row, a in zip(self.mask[x], factors, strict=True))


def random_mdp(seed: int, start: list, successor: list, sizes: tuple[int, ...], **rest) -> Tabular:
    """Random outcomes with the given successors ``[X, K]``, whatever the action."""
    g = torch.Generator().manual_seed(seed)
    to = torch.tensor(successor)
    shape = len(start), torch.Size(sizes).numel(), to.shape[1]
    probability = torch.randn(shape, generator=g, dtype=torch.float64).softmax(-1)
    reward = torch.randint(-16, 17, shape, generator=g).double() / 8
    features = torch.randn(shape[0] + 1, 2, generator=g, dtype=torch.float64).float().double()
    features[-1] = 50.0
    start = torch.tensor(start, dtype=torch.float64)
    to = to.unsqueeze(1).expand(shape).contiguous()
    return Tabular(start, probability, to, reward, features, sizes, **rest)


def chain(length: int = 6) -> Tabular:
    """Steps that all look alike; action 1 pays 1/2 at each. Deterministic."""
    shape = length, 2, 1
    start = torch.eye(length, dtype=torch.float64)[0]
    successor = torch.arange(1, length + 1).view(-1, 1, 1).expand(shape).contiguous()
    reward = torch.tensor([0.0, 0.5], dtype=torch.float64).view(1, 2, 1).expand(shape)
    features = torch.ones(length + 1, 1, dtype=torch.float64)
    features[-1] = 50.0
    ones = torch.ones(shape, dtype=torch.float64)
    return Tabular(start, ones, successor, reward.contiguous(), features, (2,), length)


MDPS = {
    "chain": chain(),
    # Ends for certain within 3 steps, often sooner; a state may come early or late.
    "stairs": random_mdp(1, [0.7, 0.3, 0.0], [[1, 2, 3], [2, 2, 3], [3, 3, 3]], (3,), longest=3),
    # The same with two binary factors per action.
    "pairs": random_mdp(2, [0.8, 0.2, 0.0], [[1, 2], [2, 3], [3, 3]], (2, 2), longest=3),
    # Cyclic, ends by chance, truncated after 3 steps.
    "loop": random_mdp(3, [0.5, 0.5], [[0, 1, 2], [1, 0, 2]], (2,), longest=3, limited=True),
    # Two factors of three categories, some of which are forbidden; all at the end.
    "masked": random_mdp(4, [0.7, 0.3, 0.0], [[1, 2], [2, 3], [3, 3]], (3, 3), longest=3)._replace(
        mask=torch.tensor(
            [[[1, 1, 0], [1, 0, 1]], [[0, 1, 1], [1, 1, 1]], [[0, 0, 1], [1, 1, 0]], [[0] * 3] * 2]
        ).bool()
    ),
}


class Model(NamedTuple):
    """Expectations over outcomes; the state is (time, X) where episodes are truncated."""

    start: Tensor
    """``[Y]``."""
    seen: Tensor
    """``[Y]`` int64, the state X of each."""
    following: Tensor
    """``[Y, J, X]`` probability of the true next state; what is missing to 1 is the end."""
    going: Tensor
    """``[Y, J, Y]`` probability that the episode goes on there."""
    reward: Tensor
    """``[Y, J]``."""


def model(mdp: Tabular) -> Model:
    X, J, _ = mdp.probability.shape
    following = torch.zeros(X, J, X + 1, dtype=torch.float64)
    following = following.scatter_add(-1, mdp.successor, mdp.probability)[..., :X]
    reward = (mdp.probability * mdp.reward).sum(-1)
    if not mdp.limited:
        return Model(mdp.start, torch.arange(X), following, following, reward)
    L = mdp.longest
    going = torch.zeros(L, X, J, L, X, dtype=torch.float64)
    for time in range(L - 1):
        going[time, :, :, time + 1] = following
    start = torch.zeros(L, X, dtype=torch.float64)
    start[0] = mdp.start
    return Model(
        start.flatten(),
        torch.arange(X).repeat(L),
        following.repeat(L, 1, 1),
        going.reshape(L * X, J, L * X),
        reward.repeat(L, 1),
    )


def masked(mdp: Tabular, logits: Tensor) -> Tensor:
    """Logits ``[X, D, A]`` with -inf for what the MDP forbids."""
    return logits if mdp.mask is None else logits.where(mdp.mask[:-1], -torch.inf)


def joint(logits: Tensor) -> Tensor:
    """Probabilities of joint actions ``[X, J]`` from logits ``[X, D, A]``."""
    p = logits.softmax(-1)
    table = p[:, 0]
    for d in range(1, p.shape[1]):
        table = (table.unsqueeze(-1) * p[:, d].unsqueeze(-2)).flatten(-2)
    return table


def averaged(m: Model, pi: Tensor) -> tuple[Tensor, Tensor]:
    """Transition matrix ``[Y, Y]`` and reward ``[Y]`` under a policy."""
    p = pi[m.seen]
    return torch.einsum("yj,yjz->yz", p, m.going), (p * m.reward).sum(-1)


def value(m: Model, pi: Tensor, gamma: float) -> Tensor:
    """V ``[Y]``, the solution of V = r + gamma P V; attached to the policy."""
    matrix, reward = averaged(m, pi)
    return torch.linalg.solve(torch.eye(len(matrix), dtype=torch.float64) - gamma * matrix, reward)


def visits(m: Model, pi: Tensor, gamma: float) -> Tensor:
    """sum_t gamma^t P(state at t) ``[Y]``."""
    matrix, _ = averaged(m, pi)
    eye = torch.eye(len(matrix), dtype=torch.float64)
    return torch.linalg.solve(eye - gamma * matrix.T, m.start)


def action_value(m: Model, pi: Tensor, gamma: float) -> Tensor:
    """Q ``[Y, J]``."""
    return m.reward + gamma * m.going @ value(m, pi, gamma)


def pull(m: Model, pi: Tensor, weighted: Tensor, parameters: Tensor) -> Tensor:
    """d / d parameters of sum_y,j pi(y, j) x weighted(y, j), which is held fixed."""
    objective = (pi[m.seen] * weighted.detach()).sum()
    return torch.autograd.grad(objective, parameters, retain_graph=True)[0]


def exact(m: Model, pi: Tensor, gamma: float) -> Tensor:
    """What stands before d pi in the gradient of the discounted return ``[Y, J]``."""
    return visits(m, pi, gamma).unsqueeze(-1) * action_value(m, pi, gamma)


def usual(m: Model, pi: Tensor, gamma: float) -> Tensor:
    """The same where gamma^t is left out: undiscounted visits times discounted values."""
    return visits(m, pi, 1.0).unsqueeze(-1) * action_value(m, pi, gamma)


def differences(m: Model, gamma: float, critic: Tensor) -> Tensor:
    """E[r + gamma v(true next state) - v(state)] ``[Y, J]``, v = 0 at the end, v ``[X]``."""
    return m.reward + gamma * m.following @ critic - critic[m.seen].unsqueeze(-1)


def advantages(m: Model, pi: Tensor, gamma: float, decay: float, critic: Tensor) -> Tensor:
    """E of the generalised advantage estimate of whole episodes ``[Y, J]``."""
    delta = differences(m, gamma, critic)
    matrix, _ = averaged(m, pi)
    eye = torch.eye(len(matrix), dtype=torch.float64)
    mean = (pi[m.seen] * delta).sum(-1)
    later = torch.linalg.solve(eye - gamma * decay * matrix, mean)
    return delta + gamma * decay * m.going @ later


def by_rows(
    m: Model, pi: Tensor, gamma: float, critic: Tensor, rows: int, *,
    decay: float = 1.0, n: int = 1 << 30, restart: bool = False, begin: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Sum over the rows of a rollout of P(state) x E[credit] ``[Y, J]``; beyond it the critic.

    Args:
        m: model.
        pi: policy.
        gamma: discount.
        critic: ``[X]``.
        rows: of the rollout.
        decay: lambda of the generalised advantage estimate.
        n: rewards before bootstrapping, with decay 1.
        restart: whether a new episode starts where one ends; else its lane stops counting.
        begin: ``[Y]`` of the first row, where that is not an episode's start.
    """
    delta, p = differences(m, gamma, critic), pi[m.seen]
    matrix, _ = averaged(m, pi)
    total, state = torch.zeros_like(delta), m.start if begin is None else begin
    for row in range(rows):
        credit = delta
        for _ in range(min(n, rows - row) - 1):  # differences that come later, from the last
            credit = delta + gamma * decay * m.going @ (p * credit).sum(-1)
        total = total + state.unsqueeze(-1) * credit
        onward = state @ matrix
        state = onward + (1 - onward.sum()) * m.start if restart else onward
    return total


class Trajectories(NamedTuple):
    """All n trajectories of at most T steps; what is after the end is zero."""

    state: Tensor
    """``[n, T]`` int64."""
    action: Tensor
    """``[n, T]`` int64, joint."""
    outcome: Tensor
    """``[n, T]`` int64."""
    reward: Tensor
    """``[n, T]``."""
    last: Tensor
    """``[n]`` int64, the true state after the last step; X where the episode terminated."""
    length: Tensor
    """``[n]`` int64, steps."""
    chance: Tensor
    """``[n]`` of the outcomes alone: the actions' part depends on the policy."""

    def probability(self, pi: Tensor) -> Tensor:
        """``[n]`` under a policy, attached to it."""
        counts = torch.arange(self.state.shape[1]) < self.length.unsqueeze(1)
        return self.chance * pi[self.state, self.action].where(counts, 1.0).prod(1)


def trajectories(mdp: Tabular, rows: int) -> Trajectories:
    X, J, K = mdp.probability.shape
    limit = min(rows, mdp.longest)
    begin = mdp.start.nonzero().flatten().tolist()
    found, unfinished = [], [([], x, float(mdp.start[x])) for x in begin]
    while unfinished:
        steps, x, chance = unfinished.pop()
        if x == X or len(steps) == limit:
            found.append((steps, x, chance))
            continue
        for j, k in itertools.product(range(J), range(K)):
            if not mdp.allows(x, j):
                continue
            p, reward = float(mdp.probability[x, j, k]), float(mdp.reward[x, j, k])
            step = x, j, k, reward
            unfinished.append(([*steps, step], int(mdp.successor[x, j, k]), chance * p))
    filled = [steps + [(0, 0, 0, 0.0)] * (rows - len(steps)) for steps, _, _ in found]
    state, action, outcome, reward = torch.tensor(filled, dtype=torch.float64).unbind(-1)
    last = torch.tensor([x for _, x, _ in found])
    length = torch.tensor([len(steps) for steps, _, _ in found])
    chance = torch.tensor([each for _, _, each in found], dtype=torch.float64)
    return Trajectories(state.long(), action.long(), outcome.long(), reward, last, length, chance)
