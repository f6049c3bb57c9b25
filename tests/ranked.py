"""Trains small cases in this process, alone or as one of several; run as a script, or imported.

As a script: python ranked.py FOLDER CASE...; torchrun's variables say which process it is. What a
case comes to is written by the process that leads, as FOLDER/<case>.safetensors and .json.
"""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import counted  # noqa: F401
import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from safetensors.torch import save_file
from shipped import OWN

from rlgrad.adam import SeedAdam
from rlgrad.captured.engine import Captured
from rlgrad.cards import resolve
from rlgrad.estimators import arrays
from rlgrad.options import Options
from rlgrad.ranks.joining import join, led
from rlgrad.ranks.leading import Following
from rlgrad.ranks.one import ONE
from rlgrad.simulators.base import TorchVectorEnv
from rlgrad.trainer import Trainer

SEEDS = (1000, 1001)
SMALL = {"num_envs": 4, "num_steps": 16, "hidden": (8,), "max_episode_steps": 40,
         "critic_steps": 4, "total_timesteps": 1 << 20, "anneal_steps": 1 << 12}  # fmt: skip


class Pixels(gymnasium.Env):
    """A bright square that noise moves; the right action is where it is."""

    observation_space = Box(0, 255, (10, 10, 1), np.uint8)
    action_space = Discrete(3)

    def _see(self):
        x = np.zeros((10, 10, 1), np.uint8)
        x[self.at, 3 * self.side : 3 * self.side + 3] = 255
        return x

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.side, self.time = 0, int(self.np_random.integers(3)), 0
        return self._see(), {}

    def step(self, action):
        right, self.time = float(action == self.side), self.time + 1
        self.at, self.side = (self.at + 1) % 10, int(self.np_random.integers(3))
        return self._see(), right, bool(self.np_random.random() < 0.1), False, {}


class Failing(Pixels):
    """The same as a number, with a reward that now and then is none."""

    observation_space = Box(-1, 3, (2,), np.float32)

    def _see(self):
        return np.array([self.side, self.at / 10], np.float32)

    def step(self, action):
        seen, reward, *rest = super().step(action)
        return seen, float("nan") if self.np_random.random() > 0.992 else reward, *rest


for name, kind in (("Pixels", Pixels), ("Failing", Failing)):
    gymnasium.register(f"ranked/{name}-v0", kind, disable_env_checker=True, max_episode_steps=25)

# Case: environment, agent, flags, iterations.
CASES = {agent: ("CartPole-v1", agent, {}, 3) for agent in OWN}
CASES |= {
    "optimal": ("CartPole-v1", "reinforce-constant", {"constant": "optimal-per-logit"}, 3),
    "centred": ("CartPole-v1", "reinforce-learned", {"centre": True, "normalise": True}, 3),
    "environment": ("CartPole-v1", "relax-network", {"objective": "environment"}, 3),
    "batch": ("CartPole-v1", "relax-network", {"objective": "batch", "estimator_steps": 2}, 3),
    "batch-learned": ("CartPole-v1", "learned-variance", {"objective": "batch"}, 3),
    "moments": (
        "CartPole-v1", "relax",
        {"normalize_observations": "on", "normalize_rewards": True, "max_grad_norm": 0.5,
         "entropy_coef": 0.01}, 3,
    ),
    "whole-moments": (
        "CartPole-v1", "reinforce", {"normalize_observations": "on", "normalize_rewards": True}, 3,
    ),
    "scale": (
        "CartPole-v1", "rebar",
        {"thinning": 2, "value_scale": 0.0, "normalize_observations": "on"}, 3,
    ),
    "gymnasium": ("Acrobot-v1", "relax", {}, 2),
    "masks": ("Taxi-v4", "all-action-control", {}, 2),
    "pixels": ("ranked/Pixels-v0", "actor-critic", {}, 2),
    "failing": ("ranked/Failing-v0", "relax", {}, 3),
    "captured": ("CartPole-v1", "relax", {"max_episode_steps": 11}, 4),
}  # fmt: skip


def begun(case, ranks=ONE):
    """What trains a case, at its start; the captured program without a GPU, on its lines."""
    env, agent, flags, _ = CASES[case]
    flags = SMALL | flags
    vec = "auto" if env == "CartPole-v1" else "sync"
    resolved = resolve(env, agent, None, flags)
    trainer = Trainer(resolved, SEEDS, Options(vec=vec, quiet=True, device="cpu"), ranks)
    for adam in (each for each in trainer.learner.modules() if isinstance(each, SeedAdam)):
        adam.epsilon = 1e-3  # else it makes a whole step of what rounding leaves of a zero gradient
    return Captured(trainer, recorded=False) if case == "captured" else trainer


@contextmanager
def as_on_a_gpu(case):
    """In tensors throughout, for the captured program."""
    before = arrays.numpy_on_cpu
    arrays.numpy_on_cpu = TorchVectorEnv.numpy_on_cpu = before and case != "captured"
    try:
        yield
    finally:
        arrays.numpy_on_cpu = TorchVectorEnv.numpy_on_cpu = before


def stood(engine):
    """(tensors, plain numbers) of where an engine stands."""
    tensors, counters = engine.state()
    outcomes = [asdict(each) for each in engine.outcomes]
    said = ("steps", "episodes", "mean_return", "mean_length", "status", "reason")
    plain = [[outcome[key] for key in said] for outcome in outcomes]
    numbers = [dict(engine.numbers(i)) for i in range(len(SEEDS))]
    copies = {name: x.clone().contiguous() for name, x in tensors.items()}
    return copies, {"numbers": numbers, "outcomes": plain, "iteration": counters["iteration"]}


class Looking:
    """A session's part towards its engine: notes where a case stands after two iterations.

    Args:
        case: that trains.
        engine: whose state is taken.
    """

    def __init__(self, case, engine):
        self.last, self.engine, self.done = CASES[case][3], engine, 0
        self.found = []

    @property
    def stopped(self):
        return self.done >= self.last

    def wants(self, steps):
        return True

    def after(self):
        self.done += 1
        if self.done in (1, self.last):
            self.found.append(stood(self.engine))

    def go(self):
        self.engine.run(self)
        self.engine.close()


def trained(case, ranks=ONE):
    """Where a case stands after its first iteration, and after its last; the leader's answer."""
    with as_on_a_gpu(case):
        engine = begun(case, ranks)
        if ranks.leads:
            looking = Looking(case, led(engine, ranks))
            looking.go()
            return looking.found
        config = SimpleNamespace(config=SimpleNamespace(total_timesteps=SMALL["total_timesteps"]))
        Following(engine, config, ranks, log_freq=1).go()
    return []


def messages(agent):
    """How many messages an iteration of an agent takes that logs nothing."""
    ranks = join(Options(rank_timeout=120))
    trainer = begun(agent, ranks)
    trainer.step()
    trainer.close()
    before = ranks.group.messages
    trainer.step()
    found = ranks.group.messages - before
    ranks.group.leave()
    return found


def main():
    folder, cases = Path(sys.argv[1]), sys.argv[2:]
    torch.set_num_threads(1)
    counts = {agent: messages(agent) for agent in ("reinforce", "actor-critic", "relax", "rebar")}
    (folder / "messages.json").write_text(json.dumps(counts))
    for case in cases:
        found = trained(case, join(Options(rank_timeout=120)))
        for name, (tensors, plain) in zip(("first", "last"), found, strict=bool(found)):
            save_file(tensors, folder / f"{case}-{name}.safetensors")
            (folder / f"{case}-{name}.json").write_text(json.dumps(plain))


if __name__ == "__main__":
    main()
