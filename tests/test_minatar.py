"""MinAtar, an optional package that is only ever imported."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
import torch
from shipped import OWN

import rlgrad
from rlgrad import store
from rlgrad.errors import UsageError
from rlgrad.lanes import Lanes
from rlgrad.make import make_gymnasium, make_one, spec
from rlgrad.watching.panel import LEAST_HEIGHT, magnified
from rlgrad.watching.playing import picture

torch.set_num_threads(1)
needs_minatar = pytest.mark.skipif(not importlib.util.find_spec("minatar"), reason="needs minatar")
BREAKOUT = "MinAtar/Breakout-v1"


def test_without_the_package_the_command_that_installs_it_is_told(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "minatar"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "minatar", None)
    monkeypatch.setattr("gymnasium.registry", {})
    with pytest.raises(UsageError, match=r"pip install 'rlgrad\[minatar\]'"):
        spec(BREAKOUT)


@needs_minatar
@pytest.mark.parametrize("game", ["Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders"])
def test_every_game_is_made_and_stored_as_bytes(game):
    lanes = Lanes(make_gymnasium(f"MinAtar/{game}-v1", 2, max_episode_steps=50))
    x = lanes.reset([0, 1])
    assert x.dtype == lanes.step(np.zeros((2, 1), dtype=np.int64)).observation.dtype == np.uint8
    assert set(np.unique(x)) == {0, 1}
    lanes.close()


@needs_minatar
@pytest.mark.filterwarnings("ignore:.*WARN")  # of Gymnasium, about frames and their rate
def test_pictures_are_seen():
    env = make_one(BREAKOUT, {"render_mode": "rgb_array"})
    env.reset(seed=0)
    drawn = picture(env)
    assert drawn.dtype == np.uint8
    shown = magnified(drawn)
    assert min(shown.shape[:2]) > LEAST_HEIGHT / 2
    assert drawn.max() > 100
    env.close()


@pytest.mark.slow
@needs_minatar
@pytest.mark.parametrize("agent", OWN)
def test_every_agent_trains_and_is_resumed_exactly(agent, tmp_path):
    settings = {
        "num_envs": 2, "num_steps": 16, "max_episode_steps": 20, "anneal_steps": 96,
        "eval_episodes": 1, "quiet": True,
    }  # fmt: skip
    first = rlgrad.train(
        BREAKOUT, agent, total_timesteps=32, log_dir=str(tmp_path / "a"), **settings
    )
    whole = rlgrad.train(
        BREAKOUT, agent, total_timesteps=96, log_dir=str(tmp_path / "b"), **settings
    )
    again = rlgrad.resume(first.path, 96)
    assert again.result()["exact"]
    states = [store.load_checkpoint(r.checkpoints()[-1])[0]["policy.flat"] for r in (again, whole)]
    assert torch.equal(*states)


@pytest.mark.slow
@needs_minatar
def test_breakout_is_learned(tmp_path):
    """Random actions score 0.4; the seed is fixed, so this cannot fail by luck."""
    run = rlgrad.train(
        BREAKOUT, "actor-critic", total_timesteps=60_000, seeds=[1000], eval_episodes=20,
        log_dir=str(tmp_path), quiet=True, anneal_steps=300_000,
    )  # fmt: skip
    (seed,) = run.result()["seeds"]
    assert seed["mean_return"] > 1.2
