"""What an iteration costs beside that of actor-critic, and where the time goes, on one core.

    python benchmarks/iteration_cost.py [--agents actor-critic,relax,rebar] [--repeats 15]

An iteration is a rollout of CartPole-v1 and the update on it, with the cards' hyperparameters, but
one schedule for all: 8 environments x 32 steps for 1 and for 20 seeds in one process, and 4,096
environments of one seed.

The agents take turns in one process and on one core, a few iterations at a time, and ratios are
taken turn by turn, so that they hold on a machine that is shared. CPU-seconds; the profile is of
other iterations than the ratios, since its clocks take time themselves.
"""

from __future__ import annotations

import argparse
import inspect
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from rlgrad.adam import SeedAdam
from rlgrad.allocator import keep_freed_memory
from rlgrad.cards import resolve
from rlgrad.options import Options
from rlgrad.trainer import Trainer

SIZES = {  # name: (seeds, environments per seed, iterations per turn)
    "1 seed": (1, 8, 20),
    "20 seeds": (20, 8, 8),
    "4,096 lanes": (1, 4096, 1),
}
ANNEAL_STEPS = 60_000  # the critic's steps per rollout fall with it, so it is the same for all
FIRST_SEED = 1000  # apart from the reported ones


class Profile:
    """CPU-seconds by phase; a phase inside another counts for itself alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.open: list[str] = []
        self.since = 0.0

    def _switch(self) -> None:
        now = time.process_time()
        if self.open:
            self.seconds[self.open[-1]] += now - self.since
        self.since = now

    def clocked(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function whose time counts for a phase."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self._counting(phase):
                result = function(*args, **kwargs)
            # The steps of an update are generators: their parts count, not their making.
            return self._chained(phase, result) if inspect.isgenerator(result) else result

        return timed

    @contextmanager
    def _counting(self, phase: str) -> Iterator[None]:
        self._switch()
        self.open.append(phase)
        try:
            yield
        finally:
            self._switch()
            self.open.pop()

    def _chained(self, phase: str, chain: Generator[Any, Any, None]) -> Generator[Any, Any, None]:
        answer = None
        while True:
            try:
                with self._counting(phase):
                    found = chain.send(answer)
            except StopIteration:
                return
            answer = yield found

    def watch(self, phase: str, owner: Any, name: str) -> None:
        """Count the calls of a method of one object."""
        object.__setattr__(owner, name, self.clocked(phase, getattr(owner, name)))


def watched(trainer: Trainer) -> Profile:
    """A profile of a trainer's phases, from now on."""
    profile, learner = Profile(), trainer.learner
    actor = learner.actor
    object.__setattr__(learner, "actor", lambda: profile.clocked("acting", actor()))
    profile.watch("simulator", trainer.lanes, "step")
    profile.watch("noise", trainer, "_noise")
    profile.watch("collect, rest", trainer, "_collect")
    profile.watch("policy", learner.policy, "blocks")
    for critic, phase in ((learner.critic, "critic"), (learner.action_critic, "action critic")):
        if critic is not None:
            profile.watch(phase, critic, "fitting")
            profile.watch(phase, critic.network, "blocks")
    profile.watch("estimator, gradient", learner.estimator, "gradient")
    profile.watch("estimator, fit", learner, "_estimator_steps")
    for adam in (module for module in learner.modules() if isinstance(module, SeedAdam)):
        profile.watch("Adam", adam, "step")
    profile.watch("update, rest", learner, "update")
    profile.watch("loop, rest", trainer, "step")
    return profile


def start(agent: str, size: str) -> Trainer:
    seeds, lanes, _ = SIZES[size]
    # The default's few steps of the critic: more, as on a card, would make agents look more alike.
    given = {"num_envs": lanes, "num_steps": 32, "critic_steps": 4}
    given |= {"total_timesteps": 1 << 40, "anneal_steps": ANNEAL_STEPS}
    resolved = resolve("CartPole-v1", agent, None, given)
    names = range(FIRST_SEED, FIRST_SEED + seeds)
    return Trainer(resolved, names, Options(device="cpu"))


def turn(trainer: Trainer, iterations: int) -> float:
    """CPU-seconds of an iteration."""
    started = time.process_time()
    for _ in range(iterations):
        trainer.step()
    return (time.process_time() - started) / iterations


def compare(agents: list[str], size: str, repeats: int) -> None:
    iterations = SIZES[size][2]
    trainers = {agent: start(agent, size) for agent in agents}
    for trainer in trainers.values():
        turn(trainer, 2 * iterations)
    turns = [{a: turn(t, iterations) for a, t in trainers.items()} for _ in range(repeats)]
    profiles = {agent: watched(trainer) for agent, trainer in trainers.items()}
    for _ in range(max(1, repeats // 3)):
        for trainer in trainers.values():
            turn(trainer, iterations)
    print(f"\n{size}: CPU-time of an iteration, {agents[0]} = 1, median of {repeats} turns")
    print(f"{'':22s}" + "".join(f"{agent:>16s}" for agent in agents))
    ratios = {a: statistics.median(each[a] / each[agents[0]] for each in turns) for a in agents}
    print(f"{'ratio':22s}" + "".join(f"{ratios[agent]:16.2f}" for agent in agents))
    total = {agent: sum(profile.seconds.values()) for agent, profile in profiles.items()}
    for phase in sorted({phase for profile in profiles.values() for phase in profile.seconds}):
        shares = [profiles[a].seconds[phase] / total[a] * ratios[a] for a in agents]
        print(f"  {phase:20s}" + "".join(f"{share:16.2f}" for share in shares))
    least = ", ".join(f"{a} {1e3 * min(each[a] for each in turns):.2f}" for a in agents)
    print(f"  least CPU-milliseconds on this machine: {least}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agents", default="actor-critic,relax,rebar", help="the first is 1")
    parser.add_argument("--sizes", default=";".join(SIZES), help="separated by ;")
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as the command does
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for size in arguments.sizes.split(";"):
        compare(arguments.agents.split(","), size, arguments.repeats)


if __name__ == "__main__":
    main()
