"""The exact expectation of an update's policy gradient, where the environment is a table.

A lane's estimate is g = sum over the rows of a rollout of J^T u / E[rows], with u = credit x score;
see ``process`` for what a rollout is. Row t of a lane, with e steps of its episode behind it, has
m = min(T - t mod T, limit - e) rows to go before the sum of its credit is cut: at a rollout's end
and at a time limit alike the critic stands for the rest. So with C_m(x, a) the expected credit of
action a in state x, m rows before the cut,

    C_1 = d,   C_m(x, a) = d(x, a) + gamma lambda sum_x' P(x', not terminated | x, a) c_{m-1}(x'),
    c_m(x) = sum_a pi(a|x) C_m(x, a),   d(x, a) = E[r + gamma V(x') [not terminated] | x, a] - V(x),

where n-step takes lambda = 1 and C_n for m > n, and return to go lambda = 1 and V = 0. Rows are
counted by renewal: with rho_e(x) the chance that an episode is in x after e steps and n_t that one
starts at row t, state x is met e steps after a start at row t with chance n_{t-e} rho_e(x). Then

    E g = J^T [ sum_x,a W(x, a) pi(a|x) (one-hot(a) - pi(.|x)) ] / E[rows],
    W(x, a) = sum over t, e of share(t) n_{t-e} rho_e(x) C_m(x, a),

where share(t) is the chance that an estimate is of the lane's rollout that row t belongs to. All in
float64. Estimators that are unbiased have this expectation, whatever their baselines.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from rlgrad.card_files import EnvCard
from rlgrad.config import Config
from rlgrad.lab.process import Process, frozen
from rlgrad.lab.tables import Table, tabulate
from rlgrad.learner import Learner


def exact_gradient(
    learner: Learner, card: EnvCard, config: Config, shares: Sequence[float] | None = None
) -> Float[Tensor, " P"] | None:
    """What the estimates of single lanes have as their mean, along which an update ascends.

    Credits are divided by the learner's value scale, as an update has them; entropy bonus and
    clipping are no part of it.

    Args:
        learner: of one seed: policy and critic as they are.
        card: of the environment.
        config: whose signal, gamma, lambda, n, number of steps and time limit count.
        shares: chances that an estimate is of its lane's first, second, ... rollout; see
            ``process.frozen``.

    Returns:
        ``[P]`` float64, as a row of ``learner.policy.flat``; None where the environment is no
        table.

    Raises:
        UsageError: where the agent cannot learn from the environment; see ``process.frozen``.
    """
    table = tabulate(card, config)
    return None if isinstance(table, str) else table_gradient(learner, table, config, shares)


@torch.no_grad()
def table_gradient(
    learner: Learner, table: Table, config: Config, shares: Sequence[float] | None = None
) -> Float[Tensor, " P"]:
    """``exact_gradient`` on a given table; arguments as there."""
    process = frozen(learner, config, table.limit, shares)
    agent = process.learner.double()
    x = table.features.to(agent.value_scale.device).unsqueeze(0)
    pi = agent.logits(x)[0, :, 0].softmax(-1).cpu()
    seen = agent.see(x)
    value = torch.zeros_like(table.start) if agent.critic is None else agent.critic(seen)[0].cpu()
    credit = _credits(table, pi, value, float(agent.value_scale), process)
    visits, rows = _visits(table, pi, process)
    weighted = torch.einsum("mx,mxa->xa", visits, credit)
    u = pi * (weighted - (pi * weighted).sum(-1, keepdim=True))
    return agent.policy.trace(seen).parameters(u.to(seen).unsqueeze(0))[0] / rows


def _credits(
    table: Table, pi: Tensor, value: Tensor, scale: float, process: Process
) -> Float[Tensor, "M X A"]:
    """C_m(x, a) for m = 1 ... M rows before the cut, in value scales."""
    config, most = process.learner.config, process.rows
    going = table.probability * ~table.terminated

    def expected(after: Tensor) -> Tensor:
        return (going * after[table.successor]).sum(-1)

    reward = (table.probability * table.reward).sum(-1) / scale
    delta = reward + config.gamma * expected(value) - value.unsqueeze(-1)
    decay = config.gamma * (config.gae_lambda if config.signal == "gae" else 1.0)
    sums = [delta]
    steps = config.n_step if config.signal == "n-step" else 0
    for _ in range(min(steps or most, most) - 1):
        sums.append(delta + decay * expected((pi * sums[-1]).sum(-1)))
    return torch.stack(sums + sums[-1:] * (most - len(sums)))


def _visits(table: Table, pi: Tensor, process: Process) -> tuple[Float[Tensor, "M X"], float]:
    """(expected visits m rows before the cut, expected rows) of one estimate."""
    T = process.rows
    rows = T * len(process.shares)
    limit = rows if table.limit is None else table.limit
    alive = _episode(table, pi, min(rows, limit))
    E = len(alive)
    chance = alive.sum(1)  # that an episode is still going on
    ends = chance - torch.cat([chance[1:], chance.new_zeros(1)])
    starts = torch.zeros(rows, dtype=torch.float64)
    starts[0] = 1.0
    for t in range(1, 0 if process.whole else rows):
        reach = min(t, E)
        starts[t] = (starts[t - reach : t].flip(0) * ends[:reach]).sum()
    weight = torch.zeros(T, E, dtype=torch.float64)
    share = torch.tensor(process.shares, dtype=torch.float64).repeat_interleave(T)
    for e in range(E):
        left = (T - torch.arange(e, rows) % T).clamp(max=limit - e)
        weight[:, e].index_add_(0, left - 1, starts[: rows - e] * share[e:])
    visits = weight @ alive
    return visits, float(visits.sum())


def _episode(table: Table, pi: Tensor, steps: int) -> Float[Tensor, "E X"]:
    """rho_e(x): chance that an episode is in x after e = 0 ... E - 1 steps."""
    flow = pi.unsqueeze(-1) * table.probability * ~table.terminated
    rho = [table.start]
    for _ in range(steps - 1):
        moved = (rho[-1].view(-1, 1, 1) * flow).flatten()
        after = torch.zeros_like(table.start).index_add_(0, table.successor.flatten(), moved)
        rho.append(after)
    return torch.stack(rho)
