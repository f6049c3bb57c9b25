"""Training by Stable-Baselines3's own ``learn``, one seed after another, watched from a callback.

The callback reads and never writes, so a seed's bits are those of ``learn`` alone.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Sequence
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from torch import Tensor

from rlgrad.cards import Resolved
from rlgrad.clock import Clock, Seconds
from rlgrad.engine import Outcome, Watch
from rlgrad.errors import UsageError, raised
from rlgrad.info_notes import Counted, Notes
from rlgrad.infos import Taken, parse_wanted
from rlgrad.make import make_one, score_to_solve
from rlgrad.masking import offers_masks
from rlgrad.options import Options
from rlgrad.peer_cards import Peer
from rlgrad.peers.algorithm import Subject, build, untouched
from rlgrad.peers.policy import PeerPolicy, Tensors, state_of
from rlgrad.preflight import choose_device

STRIDE = 256
"""Env steps between looks at parameters and at what is due; off-policy rollouts are of a few."""
MOST_SEED = (1 << 32) - 1


class _Leave(BaseException):
    """Ends ``learn`` between two iterations; with an error of ours, not of the peer, if any."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error


class _Follower(BaseCallback):
    """Tells the engine of every iteration, and ends ``learn`` where the seed is done.

    Args:
        engine: to tell.
        watch: that may want the end.
    """

    def __init__(self, engine: PeerEngine, watch: Watch) -> None:
        super().__init__()
        self.engine, self.watch = engine, watch

    def _on_rollout_start(self) -> None:
        """The last iteration's update is done: where it stands is what is judged."""
        self.engine.look(self.watch)
        if self.watch.stopped or self.engine.outcome.status != "running":
            raise _Leave

    def _on_step(self) -> bool:
        if self.engine.notes_of_infos.keys:
            found = self.locals.get("infos", ()), self.locals.get("dones", ())
            for info, ended in zip(*found, strict=True):
                self.engine.notes_of_infos.add(info, bool(ended))
        return not self.watch.stopped


class PeerEngine:
    """A run of a peer in progress.

    Args:
        resolved: what is trained.
        peer: the same, for Stable-Baselines3.
        seeds: S seeds, trained one after another.
        options: how.

    Raises:
        UsageError: where Stable-Baselines3 or rlgrad cannot serve the card or the environment.
    """

    together = 1

    def __init__(
        self, resolved: Resolved, peer: Peer, seeds: Sequence[int], options: Options
    ) -> None:
        env, self.config, self.options = resolved.env, resolved.config, options
        self.subject = Subject(resolved.agent, env.id, env.kwargs, resolved.config, peer)
        if max(seeds) > MOST_SEED - self.config.num_envs:
            raise UsageError(f"got seed {max(seeds)}; Stable-Baselines3 takes seeds below 2^32")
        self.solved_at = score_to_solve(env, options.stop_when_solved)
        self.outcomes = [Outcome(seed) for seed in seeds]
        self.clocks = [Clock() for _ in seeds]
        self.notes_of_infos = Notes(
            Counted(tuple(parse_wanted(each).key for each in options.log_info))
        )
        self.device, why = choose_device(options.device, None)
        self.where, self.vec, self.masked = f"{self.device} ({why})", "", False
        self.notes: list[str] = []
        self._states: list[Tensors] = [{} for _ in seeds]
        self._shares: dict[str, float] = {}
        self._i, self._looked = 0, 0
        self._algorithm: BaseAlgorithm | None = None
        one = make_one(env.id, env.kwargs, self.config.max_episode_steps)
        if offers_masks(one):
            took = f"peers take no masks: {resolved.agent} may do what is forbidden"
            self.notes.append(f"{env.id} masks actions, and {took}")
        one.close()
        self._try()

    @property
    def algorithm(self) -> BaseAlgorithm:
        """Of the seed in training."""
        assert self._algorithm is not None
        return self._algorithm

    @property
    def outcome(self) -> Outcome:
        """Of the seed in training."""
        return self.outcomes[self._i]

    def _try(self) -> None:
        """Build it once, so that what cannot work is refused before anything is written."""
        with untouched(), warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            algorithm = build(self.subject, self.outcome.seed, self.device)
            env = algorithm.get_env()
            assert env is not None
            PeerPolicy(self.subject, algorithm, env)
            env.close()
        self.notes += [" ".join(str(each.message).split()) for each in said]
        batch = self.config.num_envs * getattr(algorithm, "n_steps", 1)
        total = self.config.total_timesteps
        if rounded := -(-total // batch) * batch - total:
            self.notes.append(
                f"{total:,} env steps are rounded up to {total + rounded:,}, rollouts of {batch:,}"
            )

    def run(self, watch: Watch) -> None:
        """Train all seeds to their end, or until the watch stops it."""
        for i in range(len(self.outcomes)):
            if watch.stopped:
                return
            self._i = i
            with untouched():
                self._begin()
                self._learn(watch)
            watch.after()

    def _begin(self) -> None:
        """Build the next seed's algorithm."""
        self.close()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # said before training
            self._algorithm = build(self.subject, self.outcome.seed, self.device)
        self._algorithm.set_logger(Logger(None, []))
        self._looked = 0
        self._keep()

    def _learn(self, watch: Watch) -> None:
        """Train the seed; whatever its algorithm or environment raises is its failure."""
        algorithm, outcome = self.algorithm, self.outcome
        try:
            with self.clocks[self._i]:
                algorithm.learn(self.config.total_timesteps, _Follower(self, watch))
            self._count()
        except _Leave as leave:
            if leave.error is not None:
                raise leave.error from None
        except Exception as error:
            outcome.steps, outcome.status = algorithm.num_timesteps, "failed"
            outcome.reason = f"{raised(error, 300)}, after {outcome.steps:,} env steps"
        self._keep()

    def look(self, watch: Watch) -> None:
        """Count what an iteration of the seed in training came to, with its clock stopped."""
        with self.clocks[self._i].paused():
            self._count()
            if self.outcome.steps - self._looked < STRIDE and self.outcome.status == "running":
                return
            self._looked = self.outcome.steps
            self._keep()
            try:
                with untouched():  # whatever a callback draws
                    watch.after()
            except Exception as error:
                raise _Leave(error) from None

    def _count(self) -> None:
        """Bring the outcome up to date, from what Stable-Baselines3 itself counts."""
        algorithm, env = self.algorithm, self.algorithm.get_env()
        assert env is not None
        episodes = sum(len(returns) for returns in env.get_attr("episode_returns"))
        recent = list(algorithm.ep_info_buffer or ())
        mean = statistics.fmean(each["r"] for each in recent) if recent else float("nan")
        length = statistics.fmean(each["l"] for each in recent) if recent else float("nan")
        seconds = self.clocks[self._i].read()
        steps = algorithm.num_timesteps
        self.outcome.count(steps, episodes, (mean, length), self.solved_at, seconds)
        self.outcome.settle(self.config.total_timesteps, self.options.stop_when_solved)

    def _keep(self) -> None:
        """Copy the parameters, unless they are no longer finite: then the seed has failed."""
        state, outcome = state_of(self.algorithm, self.outcome.seed), self.outcome
        if all(bool(x.isfinite().all()) for x in state.values()):
            self._states[self._i] = state
            if hasattr(self.algorithm, "exploration_rate"):
                self._shares[str(outcome.seed)] = float(self.algorithm.exploration_rate)
        elif outcome.status != "failed":
            outcome.status = "failed"
            outcome.reason = f"parameters became infinite or NaN within {outcome.steps:,} env steps"

    def numbers(self, i: int) -> dict[str, float]:
        """What Stable-Baselines3 logs of its updates, by TensorBoard tag."""
        if i != self._i:
            return {}
        named = self.algorithm.logger.name_to_value.items()
        return {tag: float(x) for tag, x in named if tag.startswith("train/")}

    def seconds(self, i: int | None = None) -> Seconds:
        """Of training: of seed number i alone; None: of all."""
        clocks = self.clocks if i is None else [self.clocks[i]]
        cpu, wall = zip(*(clock.read() for clock in clocks), strict=True)
        return Seconds(sum(cpu), sum(wall))

    def infos(self) -> list[Taken]:
        """What infos of the seed in training gave since the last look; nothing for the others."""
        taken, none = self.notes_of_infos.take(), Taken({}, frozenset())
        return [taken if i == self._i else none for i in range(len(self.outcomes))]

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and counters for a checkpoint: each seed that has begun, where it stands."""
        counters = {
            "steps": [outcome.steps for outcome in self.outcomes],
            "seeds": [outcome.seed for outcome in self.outcomes],
            "exploration_rate": self._shares,
        }
        return {name: x for each in self._states for name, x in each.items()}, counters

    def close(self) -> None:
        """Release the environments."""
        if self._algorithm is not None and (env := self._algorithm.get_env()) is not None:
            env.close()
