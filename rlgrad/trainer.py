"""The loop's body, one for every agent: collect, update, count; seeds that are done are frozen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlgrad.cards import Resolved
from rlgrad.clock import Clock, Seconds
from rlgrad.engine import Outcome, Watch, listed
from rlgrad.faults import why_failed
from rlgrad.images import image_of
from rlgrad.infos import Taken, merged
from rlgrad.last_good import LastGood
from rlgrad.learner import Learner
from rlgrad.make import score_to_solve
from rlgrad.options import Options
from rlgrad.overlapped import collect_in_halves
from rlgrad.places import places
from rlgrad.preflight import observation_factors
from rlgrad.preparing import notes_of, prepare
from rlgrad.ranks.one import ONE, Ranks
from rlgrad.rollout import Episodes, Rollout, collect
from rlgrad.schedule import Schedule
from rlgrad.streams import Purpose, Streams, by_step, derive


class Trainer:
    """A run in progress.

    Args:
        resolved: what is trained.
        seeds: S seeds, trained as one.
        options: how.
        ranks: the processes that the lanes are spread over.
    """

    def __init__(
        self,
        resolved: Resolved,
        seeds: Sequence[int],
        options: Options,
        ranks: Ranks = ONE,
    ) -> None:
        self.ranks, self.share_of_lanes = ranks, ranks.lanes(resolved.config.num_envs)
        each = len(self.share_of_lanes)
        self.resolved, self.config, self.options = resolved, resolved.config, options
        self.seeds, self.schedule = list(seeds), Schedule.of(self.config)
        self.whole = self.config.signal == "return-to-go"
        self.solved_at = score_to_solve(resolved.env, options.stop_when_solved)
        self.together = len(self.seeds)
        ground = prepare(resolved, self.seeds, options, each)
        self.lanes, self.length, self.vec = ground.lanes, ground.length, ground.vec
        self.device, self.where = ground.device, ground.where
        self.masked, self.overlaps = ground.masked, ground.overlaps
        self.clock = Clock(beside=self.beside)
        self.streams = Streams(self.seeds, self.device, self.share_of_lanes.start)
        self.image = image_of(self.lanes.space, self.config.network)
        self.scale = scale = observation_factors(
            self.lanes.space, self.config, self.image is not None
        )
        self.learner = Learner(
            self.config,
            self.lanes.features,
            self.lanes.actions.sizes,
            self.seeds,
            scale,
            self.device,
            self.masked,
            self.image,
            ranks.pool,
            each,
        )
        self.episodes = Episodes(len(self.seeds), self.config.num_envs)
        self.outcomes = [Outcome(seed) for seed in self.seeds]
        self.iteration = 0
        self.observation: Any = None
        self.measured: dict[str, list[float]] = {}
        self.notes = notes_of(resolved, ground, self.learner.estimator.traits.unbiased)
        self.kept = LastGood(self.learner.state_dict().values())

    @property
    def active(self) -> list[bool]:
        """Which seeds still train."""
        return [outcome.status == "running" for outcome in self.outcomes]

    def _collect(self, observation: Any) -> tuple[Rollout, Any]:
        """The next rollout; whole episodes start from seeds of their own iteration."""
        N = len(self.share_of_lanes)
        if observation is None or self.whole:
            observation = self.lanes.reset(self.lane_seeds(self.iteration))
        gumbel = -self._noise(Purpose.ACTION).log()
        alive: Any = None
        if self.whole:
            alive = np.repeat(self.active, N)
            if self.lanes.xp is torch:
                alive = torch.as_tensor(alive, device=self.device)
        gather = collect_in_halves if self.overlaps else collect
        return gather(self.lanes, self.learner.actor(), observation, gumbel, alive)

    def lane_seeds(self, iteration: int) -> list[int]:
        """Of this process's lanes, seed by seed, for a reset of all."""
        lanes = self.share_of_lanes
        return [derive(s, Purpose.LANE_SEED, n, iteration) for s in self.seeds for n in lanes]

    def beside(self) -> float:
        """CPU-seconds that other processes have spent for this one."""
        return self.lanes.cpu_seconds() + self.ranks.cpu_seconds

    def _noise(self, purpose: Purpose, copies: int = 1) -> Tensor:
        """This iteration's Exp(1) noise ``[S, T, N, D, A]``, with a leading K for K copies."""
        N, T, (D, A) = len(self.share_of_lanes), self.length, self.learner.shape
        noise = self.streams.exponential(purpose, self.iteration, N, copies * T * D * A)
        return by_step(noise, copies, T, D, A)

    def _update(self, rollout: Rollout, measure: bool) -> dict[str, Tensor]:
        """Train on a rollout; frozen seeds keep their bits, diverged ones their last good."""
        second = rollout.gumbel  # unused, unless the estimator relaxes the choice
        if self.learner.estimator.traits.one_pass:
            second = self._noise(Purpose.RELAXATION, self.learner.estimator.relaxations)
        shares = [[self.schedule.share(outcome.steps)] for outcome in self.outcomes]
        share = torch.tensor(shares, device=self.device)
        self.kept.keep()
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # see ``finite``
            numbers = self.learner.update(rollout, second, share, self.critic_steps(), measure)
        good = self.kept.finite()
        self.kept.put_back([not (on and fine) for on, fine in zip(self.active, good, strict=True)])
        for i, (outcome, fine) in enumerate(zip(self.outcomes, good, strict=True)):
            if not fine and outcome.status == "running":
                outcome.status = "failed"
                whole = self.ranks.whole(rollout, i)
                outcome.reason = why_failed(whole, outcome.seed, outcome.steps)
        return numbers

    def critic_steps(self) -> int:
        """Of the iteration that is next: from its number alone, so alike alone and among others."""
        nominal = self.schedule.share(self.iteration * self.config.num_envs * self.length)
        return max(1, round(self.config.critic_steps * nominal))

    def learning_rate(self, steps: int) -> float:
        """Step size of the policy after so many env steps of a seed."""
        return self.schedule.share(steps) * self.config.learning_rate

    def _count(self, rollout: Rollout) -> None:
        """Count steps and episodes of the seeds that train, and say which of them are done."""
        counted = self.ranks.counted(rollout, self.clock.read().cpu)
        if counted is None:  # the leader counts, and tells
            return
        active, seconds = self.active, self.clock.read()
        self.episodes.add(counted, self.whole)
        counts = counted.valid.flatten(1).sum(1).tolist()
        for i, outcome in enumerate(self.outcomes):
            if not active[i]:
                continue
            steps, means = outcome.steps + counts[i], self.episodes.means(i)
            outcome.count(steps, self.episodes.count[i], means, self.solved_at, seconds)
            outcome.settle(self.config.total_timesteps, self.options.stop_when_solved)

    def step(self, measure: bool = False) -> dict[str, Tensor]:
        """One iteration of all seeds: a rollout and an update.

        Args:
            measure: whether to return what is logged; changes no other bit.

        Returns:
            Numbers ``[S]`` by TensorBoard tag; empty unless ``measure``.
        """
        with self.clock:
            rollout, self.observation = self._collect(self.observation)
            numbers = self._update(rollout, measure)
            self._count(rollout)
            self.iteration += 1
        return numbers

    def run(self, watch: Watch) -> None:
        """Train all seeds to their end, or until the watch stops it."""
        while any(self.active) and not watch.stopped:
            # Whole episodes differ in length, so then every update is measured.
            measure = self.whole or watch.wants(self.config.num_envs * self.length)
            self.measured = listed(self.step(measure))
            watch.after()

    def numbers(self, i: int) -> dict[str, float]:
        """What to log of seed number i beside its outcome, by TensorBoard tag."""
        return {
            "train/learning_rate": self.learning_rate(self.outcomes[i].steps),
            "train/n_updates": float(self.iteration),
            **{tag: each[i] for tag, each in self.measured.items()},
        }

    def seconds(self, i: int | None = None) -> Seconds:
        """Of training, all seeds together."""
        return self.clock.read()

    def infos(self) -> list[Taken]:
        """What infos gave since the last look, by seed."""
        lanes, N = self.lanes.infos(), self.config.num_envs
        return [merged(lanes[i * N : (i + 1) * N]) for i in range(len(self.seeds))]

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and counters for a checkpoint."""
        counters = {
            "iteration": self.iteration,
            "steps": [outcome.steps for outcome in self.outcomes],
            "seeds": self.seeds,
            "features": self.lanes.features,
            "actions": list(self.lanes.actions.sizes),
            "observation_scale": self.scale,
            "image": None if self.image is None else list(self.image),
            "outcomes": [outcome.plain() for outcome in self.outcomes],
            "seconds": list(self.clock.read()),
            "device": self.device.type,
        }
        tensors = {**self.learner.state_dict(), **self.episodes.state()}
        if self.observation is not None:
            tensors |= places(self.lanes, self.observation)
        return self.ranks.joined(tensors), counters

    def close(self) -> None:
        """Release the environments."""
        self.lanes.close()
