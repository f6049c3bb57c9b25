"""The variance of a policy-gradient estimate in parts: of the action, the trajectory, the state.

What is split is one row's term g = J^T u of an estimate, with u(s, a, xi) = credit x score at the
logits, J the policy's Jacobian in s, s a row of a rollout (with the time left of rollout and
episode), a its action and xi all chance after it. By the law of total variance, traces throughout,

    E|g|^2 = |E g|^2 + Var_s(E[g|s]) + E_s Var_a(E[g|s,a]) + E_{s,a} Var_xi(g|s,a).
             mean      state           action                trajectory

|J^T u|^2 is u^T (J J^T) u, with J J^T a small matrix in every state; at the logits J = 1. The best
control variate of state and action takes away the action part, a baseline of the state some of it,
and neither touches the other parts. States are set back and each action's future is played many
times, so that all parts have unbiased estimates (``parts``; a small one may come out negative);
|E g|^2 is the mean inner product of different states. Intervals are 95 % bootstrap intervals over
states. Terms of one trajectory are correlated; ``along`` says how much. ``docs/variance_split.md``
has it all in formulas.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlgrad.bootstrap import Interval
from rlgrad.card_files import EnvCard
from rlgrad.config import Config
from rlgrad.errors import UsageError
from rlgrad.estimators.convolution import SeedConv
from rlgrad.estimators.networks import SeedMLP
from rlgrad.lab.branches import Visits, branch, restorable, visit
from rlgrad.lab.parts import Parts, mean_logit_gradient, parts_of
from rlgrad.lab.process import frozen
from rlgrad.lab.split_result import At, Part, Split
from rlgrad.learner import Learner
from rlgrad.make import time_limit
from rlgrad.pullback import parameter_gradients

MOST_ACTIONS = 256  # joint actions: each is played in every state
RESAMPLES = 1000
_NUMBERS = 1 << 23  # of Jacobians held at a time


@torch.no_grad()
def split(
    learner: Learner,
    card: EnvCard,
    config: Config,
    *,
    states: int = 64,
    copies: int = 16,
    seed: int = 0,
    at: At = "parameters",
    shares: Sequence[float] | None = None,
) -> Split:
    """Split the variance at a frozen policy and critic, which stay as they are.

    Args:
        learner: of one seed.
        card: of the environment, which must be a simulator or a table.
        config: whose signal, gamma, lambda, n, number of steps and time limit count.
        states: visited states, each of a lane of its own.
        copies: futures of each action in each state.
        seed: of all noise.
        at: whose norms.
        shares: chances that a state is of its lane's first, second, ... rollout; see
            ``process.frozen``.

    Raises:
        UsageError: where states cannot be set back, with the reason; for fewer than 2 states or
            copies; where there are too many joint actions to play each.
    """
    if min(states, copies) < 2:
        raise UsageError(f"got {states} states and {copies} copies; expected at least 2 of each")
    process = frozen(learner, config, time_limit(card.id, config.max_episode_steps), shares)
    make = restorable(card, config, learner.value_scale.device)
    actions = _joint_actions(process.learner, card.id)
    generator = torch.Generator().manual_seed(seed)
    visits = visit(process, make, states, generator)
    credit = branch(process, make, visits, actions, copies, generator).double()
    parts, pulled = _in_states(process.learner, visits, actions, credit, at)
    lanes = _lanes(process.learner, visits, at)
    counts = torch.ones(RESAMPLES + 1, states, dtype=torch.float64)  # the first row: as it is
    picks = torch.randint(states, (RESAMPLES, states), generator=generator)
    counts[1:] = torch.zeros_like(counts[1:]).scatter_add_(1, picks, counts[1:])
    found, along = _assembled(counts, visits.rows, parts, pulled, lanes)
    whole = dict.fromkeys(found, found["variance"])
    whole["critic"] = found["variance"] + found["critic"]
    named = {key: Part(_interval(x), _interval(x / whole[key])) for key, x in found.items()}
    return Split(card.id, config.signal, at, states, copies, seed, along=_interval(along), **named)


def _joint_actions(learner: Learner, env: str) -> Int[Tensor, "J D"]:
    """All choices, factor by factor."""
    logits = learner.logits(learner.value_scale.new_zeros(1, 1, learner.features))
    sizes = (~logits[0, 0].isneginf()).sum(-1).tolist()
    count = math.prod(sizes)
    if count > MOST_ACTIONS:
        raise UsageError(
            f"{env} has {count:,} joint actions; to split the variance each is played in every "
            f"state, and at most {MOST_ACTIONS} are: take an environment with fewer"
        )
    return torch.cartesian_prod(*map(torch.arange, sizes)).view(count, len(sizes))


def _in_states(
    learner: Learner, visits: Visits, actions: Tensor, credit: Tensor, at: At
) -> tuple[Parts, Float[Tensor, "n P"]]:
    """(parts, E[g | state]) of each state."""
    x = visits.observation.unsqueeze(0)
    each = learner.logits(x)[0].softmax(-1).double().cpu()  # [n, D, A]
    hot = torch.nn.functional.one_hot(actions, each.shape[-1]).double()
    score = (hot - each.unsqueeze(1)).flatten(2)
    p = (each.unsqueeze(1) * hot).sum(-1).prod(-1)
    seen = learner.see(x)
    value = torch.zeros(len(p)) if learner.critic is None else learner.critic(seen)[0].cpu()
    u = mean_logit_gradient(p, score, credit.mean(-1))
    network = copy.deepcopy(learner.policy).double()
    size = network.flat.shape[1] if at == "parameters" else 1
    parts, pulled = [], []
    for some in torch.arange(len(p)).split(max(1, _NUMBERS // (size * score.shape[-1]))):
        jacobian = _jacobian(network, seen[:, some], learner.shape, at)
        metric = jacobian @ jacobian.transpose(1, 2)
        parts.append(parts_of(p[some], score[some], metric, credit[some], value[some].double()))
        pulled.append(torch.einsum("nb,nbp->np", u[some], jacobian))
    return Parts(*map(torch.cat, zip(*parts, strict=True))), torch.cat(pulled)


def _jacobian(
    network: SeedMLP | SeedConv, seen: Float[Tensor, "1 n F"], shape: tuple[int, int], at: At
) -> Float[Tensor, "n B P"]:
    """Slopes of each logit in each state, by one reverse pass per logit; the identity at logits."""
    n, (D, A) = seen.shape[1], shape
    units = torch.eye(D * A, dtype=torch.float64, device=seen.device)
    if at == "logits":
        return units.cpu().expand(n, -1, -1)
    x, rows = seen.double().unsqueeze(1), []
    for unit in units:
        u = unit.view(1, 1, 1, D, A).expand(1, 1, n, D, A)
        rows.append(parameter_gradients(network, x, u, lanes=True).cpu())
    return torch.stack(rows, 1)


def _lanes(learner: Learner, visits: Visits, at: At) -> Float[Tensor, "n P"]:
    """The estimate of each lane: the sum of its rows' terms."""
    if at == "logits":
        return visits.u[0].sum(0).flatten(1).double().cpu()
    pulled = parameter_gradients(learner.policy, visits.seen, visits.u, lanes=True)
    return pulled.double().cpu()


def _assembled(
    counts: Float[Tensor, "R n"],
    rows: Float[Tensor, " n"],
    parts: Parts,
    pulled: Float[Tensor, "n P"],
    lanes: Float[Tensor, "n P"],
) -> tuple[dict[str, Tensor], Float[Tensor, " R"]]:
    """(every part of a ``Split``, its ``along``), for each of R ways to count the states."""
    weight = counts * rows
    total = weight.sum(1)
    found = {key: weight @ x / total for key, x in parts._asdict().items()}
    mean = _mean_product(weight, pulled)
    variance, state = found["whole"] - mean, found["signal"] - mean
    lane_variance = counts @ lanes.square().sum(1) / counts.sum(1) - _mean_product(counts, lanes)
    along = lane_variance / (total / counts.sum(1) * variance)
    named = {
        "square": found["whole"],
        "mean": mean,
        "variance": variance,
        "action": found["action"],
        "trajectory": found["trajectory"],
        "state": state,
        "left": found["trajectory"] + state,
        "critic": found["critic"],
        "value_baseline": found["value"],
        "baseline": found["baseline"],
        "per_logit_baseline": found["per_logit"],
    }
    return named, along


def _mean_product(weight: Float[Tensor, "R n"], x: Float[Tensor, "n P"]) -> Float[Tensor, " R"]:
    """Weighted mean of x_i . x_j over different i and j: |E x|^2 without bias."""
    square, squared = (weight @ x).square().sum(1), weight * weight
    own = squared @ x.square().sum(1)
    return (square - own) / (weight.sum(1) ** 2 - squared.sum(1))


def _interval(x: Float[Tensor, " R"]) -> Interval:
    """The first number, and quantiles of the others."""
    low, high = x[1:].nanquantile(torch.tensor([0.025, 0.975]).to(x)).tolist()
    return Interval(float(x[0]), low, high)
