"""A training iteration as a program of fixed shapes that asks the device for nothing.

The same operations in the same order whatever the numbers are: what depends on them, such as
episodes that end, seeds that are done and the number of the iteration, stays in tensors. So the
program can be recorded once, as a CUDA graph, and replayed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rlgrad.captured.tally import Tally
from rlgrad.config import Config
from rlgrad.lanes import Lanes
from rlgrad.last_good import LastGood
from rlgrad.learner import Learner
from rlgrad.ranks.one import ONE, Ranks
from rlgrad.rollout import collect
from rlgrad.schedule import Schedule
from rlgrad.simulators.arrays import by_component
from rlgrad.streams import Purpose, Streams, by_step


class Place:
    """Where a simulator stands, in tensors that stay where they are.

    Args:
        lanes: of a simulator that has been reset.
        observation: ``[L, F]``, its last.
        length: steps for which nothing else is asked of the simulator.
    """

    def __init__(self, lanes: Lanes, observation: Tensor, length: int) -> None:
        assert lanes.simulator is not None
        self.simulator: Any = lanes.simulator
        self.starts = lanes.simulator.starts
        self.starts.provide(min(length, self.starts.most))
        self.observation = observation.clone()
        self.state = by_component(self.simulator._state.clone())
        self.elapsed = self.simulator._elapsed.clone()

    def enter(self) -> Tensor:
        """Put the simulator here, with new starts at hand; returns what it shows."""
        self.simulator._state, self.simulator._elapsed = self.state, self.elapsed
        self.starts.fill()
        return self.observation

    def leave(self, observation: Tensor) -> None:
        """Take over where the simulator now stands."""
        self.observation.copy_(observation)
        self.state.copy_(self.simulator._state)
        self.elapsed.copy_(self.simulator._elapsed)
        self.simulator._state, self.simulator._elapsed = self.state, self.elapsed

    def tensors(self) -> list[Tensor]:
        """All that changes from iteration to iteration."""
        return [self.observation, self.state, self.elapsed, *self.starts.tensors()]


def _compiled(function: Any, backend: str) -> Any:
    """Compiled as one piece for fixed shapes, or not at all."""
    return torch.compile(function, fullgraph=True, dynamic=False, backend=backend)


class Program:
    """One iteration of all seeds: rollout, update, counting.

    Args:
        config: hyperparameters; the signal must not need whole episodes.
        learner: all that learns.
        lanes: of a simulator.
        streams: the noise.
        place: where the simulator stands.
        tally: what has been counted.
        kept: the state before the update.
        iteration: which is next.
        ranks: the processes that lanes are spread over; the tally is of all lanes, in each.
    """

    def __init__(
        self,
        config: Config,
        learner: Learner,
        lanes: Lanes,
        streams: Streams,
        place: Place,
        tally: Tally,
        kept: LastGood,
        iteration: int,
        ranks: Ranks = ONE,
    ) -> None:
        self.config, self.learner, self.lanes, self.streams = config, learner, lanes, streams
        self.ranks, self.schedule = ranks, Schedule.of(config)
        self.place, self.tally, self.kept = place, tally, kept
        device = streams.device
        self.iteration = torch.full((1,), iteration, dtype=torch.int64, device=device)

    def compile(self, backend: str = "inductor") -> None:
        """Fuse what has many small operations: a simulator's step and the generator of noise."""
        simulator, starts = self.place.simulator, self.place.starts
        with self.unchanged():  # once as it is, so that what it keeps is there before
            self(1)
        simulator.follow = _compiled(simulator.follow, backend)
        for streams in (self.streams, starts.streams):
            streams.philox = _compiled(streams.philox, backend)

    def _noise(self, purpose: Purpose, copies: int = 1) -> Tensor:
        """Exp(1) noise ``[S, T, N, D, A]``, with a leading K for K copies."""
        N, T, (D, A) = (
            self.lanes.count // self.learner.seeds,
            self.config.num_steps,
            self.learner.shape,
        )
        uniform = self.streams.uniform_at(purpose, self.iteration, N, copies * T * D * A)
        return by_step(uniform.log().neg_(), copies, T, D, A)

    @torch.no_grad()
    def __call__(self, critic_steps: int, measure: bool = False) -> dict[str, Tensor]:
        """Go on by one iteration.

        Args:
            critic_steps: known from the iteration's number alone.
            measure: whether to compute the numbers that are logged; changes nothing else.

        Returns:
            Logged numbers ``[S]`` by TensorBoard tag; empty unless ``measure``.
        """
        learner, tally = self.learner, self.tally
        gumbel = -self._noise(Purpose.ACTION).log()
        rollout, observation = collect(self.lanes, learner.logits, self.place.enter(), gumbel)
        self.place.leave(observation)
        second = rollout.gumbel
        if learner.estimator.traits.one_pass:
            second = self._noise(Purpose.RELAXATION, learner.estimator.relaxations)
        share = self.schedule.shares(tally.steps)
        self.kept.keep()
        numbers = learner.update(rollout, second, share, critic_steps, measure)
        good = self.kept.finite_rows()
        self.kept.put_back_where(~(good & tally.running))
        tally.add(self.ranks.on_device(rollout), good)
        self.iteration += 1
        return numbers

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Whatever is done inside, the program stands afterwards where it stood."""
        tensors = self.tensors()
        before = [x.clone() for x in tensors]
        try:
            yield
        finally:
            for x, old in zip(tensors, before, strict=True):
                x.copy_(old)
            self.place.enter()

    def tensors(self) -> Sequence[Tensor]:
        """All that changes from iteration to iteration."""
        return [
            *self.learner.state_dict().values(),
            *self.tally.state_dict().values(),
            *self.place.tensors(),
            self.iteration,
        ]
