"""A run that ends early and goes on is, bit for bit, the run that did not."""

from __future__ import annotations

import json
from dataclasses import asdict

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete

import rlgrad
from rlgrad import cards, store, training
from rlgrad.display import Display
from rlgrad.options import Options

torch.set_num_threads(1)
AGENTS = sorted(name for name in cards.find("agents") if not cards.agent_card(name).algorithm)
SMALL = {"num_envs": 2, "num_steps": 16, "hidden": (8,), "max_episode_steps": 23}
WALL_CLOCK = ("time/",)


class KilledError(BaseException):
    """Ends a process's work between two iterations, as SIGKILL would."""


class Dying(Display):
    """Raises at the n-th iteration; nothing after it is done."""

    def __init__(self, iterations):
        super().__init__("", quiet=True)
        self.left = iterations

    def update(self, status):
        self.left -= 1
        if self.left == 0:
            raise KilledError


class Walk(gymnasium.Env):
    """A random walk with noise of its own, of any spaces; episodes end by chance."""

    def __init__(self, space=None, actions=None, hidden=0.0):
        self.observation_space = space or Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space, self.hidden = actions or Discrete(3, start=1), hidden

    def _observe(self):
        if isinstance(self.observation_space, Dict):
            return {"a": int(self.x > 0), "b": np.array([self.x], np.float32)}
        noise = np.random.default_rng().normal() if self.hidden else 0.0
        return np.array([self.x, self.time / 7 + self.hidden * noise])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.time = self.np_random.normal(), 0
        return self._observe(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.x += 0.1 * float(np.sum(action)) - 0.2 + 0.3 * self.np_random.normal()
        self.time += 1
        return self._observe(), -abs(self.x), bool(self.np_random.random() < 0.05), False, {}


ENVS = {
    "Walk": {},
    "Factors": {
        "space": Dict({"a": Discrete(2), "b": Box(-np.inf, np.inf, (1,))}),
        "actions": MultiDiscrete([2, 3]),
    },
    "Hidden": {"hidden": 1.0},
}
for name, kwargs in ENVS.items():
    if f"resume/{name}-v0" not in gymnasium.registry:
        gymnasium.register(f"resume/{name}-v0", Walk, max_episode_steps=23, kwargs=kwargs)


@pytest.fixture
def begin(tmp_path):
    """A session of a small run below ``tmp_path``."""

    def begin(env, agent, seeds=(1000, 1001), total=400, display=None, **options):
        flags = {k: options.pop(k) for k in list(options) if k not in asdict(Options())}
        resolved = cards.resolve(env, agent, None, {**SMALL, "total_timesteps": total, **flags})
        chosen = {"eval_episodes": 2, "quiet": True, "log_dir": str(tmp_path), **options}
        return training.start(resolved, list(seeds), Options(**chosen), display)

    return begin


def killed(session_of):
    """The run of a session that dies; whoever began it chose when."""
    session = session_of()
    with pytest.raises(KilledError):
        session.go()
    return session.run


def whole(run):
    """All that a run leaves, without its wall clock."""
    tensors, counters = store.load_checkpoint(run.checkpoints()[-1])
    rows = [
        {k: v for k, v in row.items() if not k.startswith(WALL_CLOCK)} for row in run.metrics()
    ]
    result = run.result()
    for row in (*counters["outcomes"], *result["seeds"]):
        row["solved_at_seconds"] = row["solved_at_seconds"] is not None
    for key in ("run", "cpu_seconds", "wall_seconds"):
        del result[key]
    counters["seconds"], counters["session"]["record"] = None, None
    return tensors, counters, rows, result


def same(one, other):
    (tensors, *rest), (others, *others_rest) = whole(one), whole(other)
    assert tensors.keys() == others.keys()
    for name, x in tensors.items():
        assert torch.equal(x.view(-1).view(torch.uint8), others[name].view(-1).view(torch.uint8)), (
            name
        )
    assert rest == others_rest


OFTEN = {"save_freq": 64, "log_freq": 1, "eval_freq": 150}


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("env", ["CartPole-v1", "resume/Factors-v0"])
def test_every_agent_goes_on_bit_for_bit(begin, env, agent):
    straight = begin(env, agent, **OFTEN)
    straight.go()
    run = killed(lambda: begin(env, agent, display=Dying(5), **OFTEN))
    assert not run.result()
    assert rlgrad.resume(run).path == run.path
    same(straight.run, run)
    assert json.loads((run.path / "run.json").read_text())["exact"] is True
