"""Every estimator at a frozen policy: bias, variance and cost, on the same data and noise."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from rlgrad.estimators import Estimator
from rlgrad.lab.data import Data, prepared
from rlgrad.lab.fitting import CRITIC_STEPS, STEPS, fit, fit_action_critic, fit_critic
from rlgrad.lab.freeze import Frozen
from rlgrad.lab.members import Member
from rlgrad.lab.moments import Gatherer, units
from rlgrad.lab.sampling import gather, split
from rlgrad.streams import Purpose, derive

HELD_OUT = 0.2  # share of the fitting part's lanes that fits are judged on
LONGER = 4  # times as many states stand behind a reference that is not exact
PASSES = 3  # of what is timed
FIT, MEASURE, REFERENCE = range(3)  # parts of the data; no two share a number of noise


@dataclass(frozen=True)
class Settings:
    """How to measure."""

    states: int = 65_536
    """Visited states that are measured on."""
    fit_states: int = 65_536
    """Visited states that critics, baselines and control variates are fitted on."""
    env_seed: int = 0
    """Of all data and noise; another number, other data."""
    objective: str | None = None
    """Whose squared norm control variates descend; None: as the card says."""
    train_steps: int = STEPS
    """Steps of Adam for what is trained; 0: nothing is."""
    critic_steps: int = CRITIC_STEPS
    """Steps of Adam for a critic that is fitted; a critic of actions takes a quarter of them."""
    split_states: int = 64
    """States that the variance is split in; 0: it is not."""


@dataclass
class Measured:
    """An estimator with what was gathered of it."""

    member: Member
    estimator: Estimator
    gathered: Gatherer
    seconds: float
    """CPU time of its gradients at the logits."""
    improved: bool
    """Whether each fit that it rests on left its initial parameters behind."""


Progress = Callable[[str], None]


def timed(work: Callable[[], Tensor], passes: int) -> tuple[Tensor, float]:
    """(what it gives, the least CPU seconds of so many passes)."""
    spent = []
    for _ in range(passes):
        started = time.process_time()
        found = work()
        spent.append(time.process_time() - started)
    return found, min(spent)


class Lab:
    """The data of one frozen policy, and what is measured on it.

    Args:
        frozen: policy.
        settings: how much.
        progress: called with a line about what is being done.
    """

    def __init__(self, frozen: Frozen, settings: Settings, progress: Progress) -> None:
        self.frozen, self.settings, self.progress = frozen, settings, progress
        self.objective = settings.objective or frozen.config.objective
        self.seeds = [derive(settings.env_seed, Purpose.MEASURE, part) for part in range(3)]
        progress("gathering what is fitted on")
        sample = gather(frozen, settings.fit_states, self.seeds[FIT])
        part, held_out = split(sample, HELD_OUT)
        progress("fitting the critic")
        fit_critic(frozen, part, self.seeds[FIT], settings.critic_steps)
        self.shares = sample.shares
        self.mean_length = float(sample.rollout.valid.sum()) / sample.rollout.valid.shape[2]
        self.part = prepared(frozen, part, self._noise(FIT))
        self.held_out = prepared(frozen, held_out, self._noise(FIT) + 1)
        progress("gathering what is measured on")
        self.data = self.fresh(MEASURE, settings.states)
        self.unit = units(self.data.lane)
        self._good_q = True

    def _noise(self, part: int) -> int:
        return derive(self.seeds[part], Purpose.RELAXATION) >> 1

    def fresh(self, part: int, states: int) -> Data:
        """Data of a part that nothing is fitted to."""
        sample = gather(self.frozen, states, self.seeds[part], self.mean_length)
        return prepared(self.frozen, sample, self._noise(part))

    def built(self, member: Member) -> tuple[Estimator, bool]:
        """(an estimator, fitted where its row says so; whether its fits improved anything)."""
        estimator = member.made(self.frozen, self.part.size)
        needs_q = estimator.traits.differentiable and self.frozen.learner.action_critic is None
        if needs_q:
            self.progress("fitting a critic of actions")
            steps, seed = self.settings.critic_steps // 4, self.seeds[FIT]
            self._good_q = fit_action_critic(self.frozen, self.part, self.held_out, seed, steps)
        improved = self._good_q or not estimator.traits.differentiable
        if member.trained is not False:
            self.progress(f"fitting {member.label}")
            steps = self.settings.train_steps
            seed = self.seeds[FIT]
            fitted = fit(estimator, self.part, self.held_out, self.objective, seed, steps)
            improved = improved and fitted
        return estimator, improved

    def measured(self, member: Member) -> Measured:
        """All that is gathered of a row's estimates."""
        estimator, improved = self.built(member)
        self.progress(f"measuring {member.label}")
        gathered, seconds = self.gathered(estimator, self.data, PASSES)
        return Measured(member, estimator, gathered, seconds, improved)

    def gathered(self, estimator: Estimator, data: Data, passes: int = 1) -> tuple[Gatherer, float]:
        """(sums over the estimates of some data, CPU seconds of the gradients at the logits).

        The seconds of each block are the least of so many passes: the first one is cold.
        """
        unit = units(data.lane)
        policy, batch = self.frozen.learner.policy, self.frozen.config.num_envs
        found = Gatherer(int(unit.max()) + 1, policy, batch)
        seconds, done = 0.0, 0
        for block in data.blocks(batch):
            u, spent = timed(partial(block.gradient, estimator), passes)
            seconds += spent
            found.add(block.pulled(u) / data.mean_rows, unit[done : done + block.columns])
            done += block.columns
        return found, seconds

    def unit_rows(self) -> Float[Tensor, " U"]:
        """Rows per estimate of each unit, relative to their mean over all."""
        each = torch.bincount(self.data.column, minlength=self.data.columns).double()
        rows, count = (torch.bincount(self.unit, w) for w in (each, torch.ones_like(each)))
        return (rows / count / self.data.mean_rows).float()

    def pull_seconds(self) -> float:
        """CPU seconds of the policy's passes over all rows, which all estimators share."""
        policy, data = self.frozen.learner.policy, self.data
        u = torch.zeros_like(data.draw.logits).flatten(-2)
        return timed(lambda: policy.trace(data.x).parameters(u), PASSES)[1]
