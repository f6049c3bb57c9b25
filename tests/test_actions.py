"""Actions of several factors, from the space to a policy that has learned to use them."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from shipped import OWN

from rlgrad import load, train
from rlgrad.actions import Actions

torch.set_num_threads(1)
SPACES = {
    "discrete": Discrete(3, start=-1),
    "numbers": MultiDiscrete([2, 3], start=[5, -1]),
    "table": MultiDiscrete([[2, 3], [4, 2]]),
    "bits": MultiBinary(3),
    "grid": MultiBinary([2, 2]),
}
SIZES = {
    "discrete": (3,),
    "numbers": (2, 3),
    "table": (2, 3, 4, 2),
    "bits": (2, 2, 2),
    "grid": (2, 2, 2, 2),
}
every_space = pytest.mark.parametrize("name", SPACES)


class Match(gymnasium.Env):
    """One step: every factor should choose its lowest category, or its highest where x is 1."""

    observation_space = Box(0, 1, (1,), np.float32)

    def __init__(self, name):
        self.action_space = SPACES[name]
        self.actions = Actions(self.action_space)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.integers(2)
        return np.array([self.x], np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        best = np.array([self.actions.sizes]) - 1 if self.x else np.zeros((1, len(SIZES)), int)
        best = best[:, : len(self.actions.sizes)]
        right = np.mean(np.asarray(action) == self.actions.outside(best)[0])
        return np.array([self.x], np.float32), float(right), True, False, {}


for each in SPACES:
    if f"own/Match-{each}-v0" not in gymnasium.registry:
        gymnasium.register(
            f"own/Match-{each}-v0", Match, kwargs={"name": each}, max_episode_steps=9
        )


@every_space
def test_every_action_is_one_of_the_space(name):
    space, actions = SPACES[name], Actions(SPACES[name])
    assert actions.sizes == SIZES[name]
    assert actions.outputs == len(actions.sizes) * max(actions.sizes)
    every = np.stack(np.meshgrid(*map(np.arange, actions.sizes), indexing="ij"), -1)
    every = every.reshape(-1, len(actions.sizes))
    outside = actions.outside(every)
    assert all(space.contains(each) for each in outside)
    assert len({each.tobytes() for each in outside}) == np.prod(actions.sizes)
    as_tensor = actions.outside(torch.from_numpy(every))  # as a simulator on a GPU has them
    assert as_tensor.tolist() == outside.tolist()


def test_other_spaces_are_refused():
    with pytest.raises(TypeError, match="expected Discrete, MultiDiscrete or MultiBinary"):
        Actions(Box(0, 1))


SETTINGS = {"num_envs": 8, "num_steps": 8, "hidden": (16,), "quiet": True, "log_freq": 0}


# The two agents that follow a relaxed critic alone are biased, and do not find every best action.
SURE = sorted(set(OWN) - {"gumbel-softmax", "straight-through"})


@pytest.mark.parametrize(
    ("name", "agent"),
    [
        ("discrete", "actor-critic"),
        ("numbers", "relax"),
        ("table", "relax"),
        ("grid", "relax"),
        *(pytest.param("numbers", each, marks=pytest.mark.slow) for each in SURE),
    ],
)
def test_agents_learn_every_factor(tmp_path, name, agent):
    # An episode is one step here: more of them at once make as many updates as other agents make.
    lanes = {"num_envs": 64} if agent.startswith("reinforce") else {}
    run = train(
        f"own/Match-{name}-v0",
        agent,
        seeds=[3],
        total_timesteps=5_000,
        learning_rate=0.02,
        log_dir=str(tmp_path),
        **{**SETTINGS, **lanes},
    )
    loaded = load(run)
    for x in (0.0, 1.0):
        observation = np.array([x], np.float32)
        action, _ = loaded.predict(observation, deterministic=True)
        assert loaded.action_space.contains(action if action.ndim else np.int64(action))
        want = np.array([SIZES[name]]) - 1 if x else np.zeros((1, len(SIZES[name])), int)
        assert np.array_equal(action, Actions(SPACES[name]).outside(want)[0])
        p = loaded.action_probability(observation)
        shape = (1, 3) if name == "discrete" else (1, len(SIZES[name]), max(SIZES[name]))
        assert p.shape == shape
        assert p.sum(-1) == pytest.approx(np.ones(shape[:-1]), abs=1e-6)
        if name == "numbers":
            assert p[0, 0, 2] == 0.0  # the first factor has no third category


@pytest.mark.parametrize("agent", ["actor-critic", "relax", "reinforce-learned"])
def test_a_seed_has_the_same_bits_alone_as_among_five(tmp_path, agent):
    given = {"total_timesteps": 400, "log_dir": str(tmp_path), **SETTINGS}
    env = "own/Match-numbers-v0"
    many = train(env, agent, seeds=range(5), **given)
    alone = train(env, agent, seeds=[3], **given)
    ours, theirs = load(many, 3).policy.state_dict(), load(alone, 3).policy.state_dict()
    assert all(torch.equal(theirs[key], value) for key, value in ours.items())
