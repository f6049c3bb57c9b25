"""States that a frozen policy visits, and credits of many futures from each of them.

The engine itself plays and credits: lanes of an environment are put back into visited states, their
first action is given, and ``rollout.collect`` and ``Learner.credit`` do the rest, so that a credit
here is what an update would have credited.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlgrad.card_files import EnvCard
from rlgrad.config import Config
from rlgrad.errors import UsageError
from rlgrad.estimators import one_hot
from rlgrad.estimators.base import Draw
from rlgrad.lab.process import Process
from rlgrad.lab.tables import TableEnv, tabulate
from rlgrad.lanes import Lanes
from rlgrad.learner import Learner
from rlgrad.make import is_simulated, make_training
from rlgrad.rollout import Rollout, collect
from rlgrad.simulators.base import TorchVectorEnv

Make = Callable[[int, int], TorchVectorEnv]
"""(lanes, seed of the outcomes) -> an environment whose states can be set back."""
MOST = 1 << 25  # numbers kept of all branches that are played at a time
_FORCED = 1e6  # added to the logit of a given action: above any logits and noise


def restorable(card: EnvCard, config: Config, device: torch.device | str = "cpu") -> Make:
    """How to make an environment whose states can be set back: a simulator, or a table.

    Raises:
        UsageError: with the reason, for other environments.
    """
    if is_simulated(card):

        def simulator(lanes: int, seed: int) -> TorchVectorEnv:
            made: Any = make_training(card, lanes, config.max_episode_steps, device)
            return made

        return simulator
    table = tabulate(card, config)
    if isinstance(table, str):
        raise UsageError(
            f"{card.id} cannot be set back to a state, so the variance cannot be split: {table}; "
            "there are rlgrad's simulators and Gymnasium's tables (env.unwrapped.P)"
        )
    return lambda lanes, seed: TableEnv(table, lanes, seed)


class Visits(NamedTuple):
    """One row of each of n lanes, every valid row of the lane's estimate equally likely."""

    state: Tensor
    """``[n, ...]``."""
    elapsed: Int[Tensor, " n"]
    """Steps of the episode so far."""
    left: Int[Tensor, " n"]
    """Rows until the rollout ends, this one included."""
    observation: Float[Tensor, "n F"]
    rows: Float[Tensor, " n"]
    """Valid rows of the lane's estimate, by which its row counts."""
    u: Float[Tensor, "1 T n D A"]
    """Of the lane's estimate, credit x score; zero in rows that do not count."""
    seen: Float[Tensor, "1 T n F"]
    """What the policy's network saw there."""


def visit(process: Process, make: Make, lanes: int, generator: torch.Generator) -> Visits:
    """Play every lane to the estimate that chance gives it, and choose a row of that.

    Args:
        process: whose rollouts.
        make: see ``restorable``.
        lanes: n.
        generator: of all noise.
    """
    seed = int(torch.randint(1 << 62, (), generator=generator))
    env = make(lanes, seed)
    numbered, T = Lanes(env), process.rows
    act, kept = process.learner.actor(), []

    def policy(observation: Any) -> Any:
        assert env.state is not None
        kept.append((env.state.clone(), env.elapsed.clone()))
        return act(observation)

    shares = torch.tensor(process.shares, dtype=torch.float64)
    number = torch.multinomial(shares, lanes, replacement=True, generator=generator)
    rollouts, alive = [], _alive(numbered, lanes) if process.whole else None
    observation = numbered.reset([seed ^ lane for lane in range(lanes)])
    for _ in range(int(number.max()) + 1):
        noise = _gumbel(process.learner, T, lanes, generator)
        rollout, observation = collect(numbered, policy, observation, noise, alive)
        rollouts.append(rollout)
    return _chosen(process, rollouts, kept, number, generator)


def _chosen(
    process: Process,
    rollouts: list[Rollout],
    kept: list[tuple[Tensor, Tensor]],
    number: Int[Tensor, " n"],
    generator: torch.Generator,
) -> Visits:
    """One row of each lane's estimate, which is its rollout of the given number."""
    T, lane = process.rows, torch.arange(len(number))
    rollout = _of_lanes(rollouts, number)
    u, seen = _estimates(process.learner, rollout)
    valid = rollout.valid[0].t().cpu()
    row = torch.rand(valid.shape, generator=generator).where(valid, -1.0).argmax(1)
    state, elapsed = (torch.stack(each) for each in zip(*kept, strict=True))
    at = number * T + row
    observation = rollout.observation[0, row, lane]
    rows = valid.sum(1).double()
    return Visits(state[at, lane], elapsed[at, lane], T - row, observation, rows, u, seen)


def _of_lanes(rollouts: list[Rollout], number: Int[Tensor, " n"]) -> Rollout:
    """Of every lane the rollout that it gives."""
    lane = torch.arange(len(number))
    last = torch.stack([each.last for each in rollouts])[number, :, lane].transpose(0, 1)
    if any(each.final is not None for each in rollouts):  # where it is not, no row looks at it
        rollouts = [
            each._replace(final=torch.zeros_like(each.observation) if x is None else x)
            for each in rollouts
            for x in (each.final,)
        ]
    fields = []
    for each in zip(*(x._replace(last=x.reward) for x in rollouts), strict=True):
        rows = None if each[0] is None else torch.stack(each)[number, :, :, lane]
        fields.append(None if rows is None else rows.movedim(0, 2).contiguous())
    return Rollout(*fields)._replace(last=last)  # type: ignore[arg-type]


def _estimates(learner: Learner, rollout: Rollout) -> tuple[Tensor, Tensor]:
    """(u ``[1, T, N, D, A]``, what the network saw) of a rollout."""
    logits = learner.logits(rollout.observation)
    draw = Draw(logits, rollout.gumbel, rollout.gumbel, rollout.action)
    u = credits(learner, rollout)[..., None, None] * (one_hot(draw) - logits.softmax(-1))
    return u * rollout.valid[..., None, None], learner.see(rollout.observation)


def credits(learner: Learner, rollout: Rollout) -> Float[Tensor, "S T N"]:
    """What an update credits to the actions of a rollout, in value scales."""
    seen = learner.see(torch.cat([rollout.observation, rollout.last.unsqueeze(1)], 1))
    valued = None if learner.critic is None else learner.critic.network.trace(seen)
    return learner.credit(rollout, valued)[0]


def _gumbel(learner: Learner, T: int, lanes: int, generator: torch.Generator) -> Tensor:
    """``[1, T, lanes, D, A]``."""
    noise = torch.empty(1, T, lanes, *learner.shape).exponential_(generator=generator)
    gumbel = -noise.clamp_(min=torch.finfo(noise.dtype).tiny).log_()
    return gumbel.to(learner.value_scale.device)


def _alive(lanes: Lanes, count: int) -> Any:
    """All lanes, in their library."""
    if lanes.xp is np:
        return np.ones(count, dtype=bool)
    return torch.ones(count, dtype=torch.bool, device=lanes.env.device)  # type: ignore[attr-defined]


def branch(
    process: Process,
    make: Make,
    visits: Visits,
    actions: Int[Tensor, "J D"],
    copies: int,
    generator: torch.Generator,
) -> Float[Tensor, "n J copies"]:
    """Credits of independent futures of every action in every visited state, in value scales.

    Args:
        process: whose rollouts.
        make: see ``restorable``.
        visits: from ``visit``.
        actions: all J joint actions.
        copies: futures of each.
        generator: of all noise.
    """
    learner = process.learner
    hidden = 0 if learner.critic is None else sum(learner.config.hidden)
    numbers = 2 * (learner.features + actions.numel()) + hidden
    together = max(1, MOST // (len(actions) * copies * process.rows * numbers))
    parts = []
    for some in torch.arange(len(visits.left)).split(together):
        state, elapsed, left = (x[some.to(x.device)] for x in visits[:3])
        each = len(actions) * copies
        state, elapsed, left = (x.repeat_interleave(each, 0) for x in (state, elapsed, left))
        action = actions.repeat_interleave(copies, 0).repeat(len(some), 1)
        parts.append(_futures(process, make, state, elapsed, left, action, generator).cpu())
    return torch.cat(parts).view(-1, len(actions), copies)


def _futures(
    process: Process,
    make: Make,
    state: Tensor,
    elapsed: Tensor,
    left: Tensor,
    action: Int[Tensor, "lanes D"],
    generator: torch.Generator,
) -> Float[Tensor, " lanes"]:
    """The credit of each lane's given first action."""
    learner, count, T = process.learner, len(left), int(left.max())
    env = make(count, int(torch.randint(1 << 62, (), generator=generator)))
    lanes = Lanes(env)
    lanes.reset([0] * count)  # no episode that starts from here on is looked at
    observation: Any = env.restore(state, elapsed).flatten(1)
    if lanes.xp is np:
        observation = observation.numpy()
    gumbel = _gumbel(learner, T, count, generator)
    given = torch.nn.functional.one_hot(action, learner.shape[1])
    gumbel[0, 0] += _FORCED * given.to(gumbel)
    alive = _alive(lanes, count)
    rollout, _ = collect(lanes, learner.actor(), observation, gumbel, alive)
    played = int(rollout.valid.any(2).sum())
    fields = (x if x is None else x[:, :played] for x in rollout)
    rollout = Rollout(*fields)._replace(last=rollout.last)  # type: ignore[arg-type]
    # At its rollout's end a lane is credited like a truncated one: the critic stands for the rest.
    end = torch.arange(played).unsqueeze(1) == left.cpu() - 1
    cut = rollout.truncated | end.unsqueeze(0).to(rollout.truncated.device)
    return credits(learner, rollout._replace(truncated=cut))[0, 0]
