"""Atari through ale_py's vector class: rows, seeds, limits, evaluation, training, resuming."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
import torch

import rlgrad
from rlgrad import store
from rlgrad.atari import STEPS, is_atari
from rlgrad.card_files import EnvCard, env_card
from rlgrad.choosing import choose_vec, same_bits
from rlgrad.errors import UsageError
from rlgrad.lanes import Lanes
from rlgrad.make import make_evaluation, make_one, make_training, spec, time_limit

torch.set_num_threads(1)
needs_ale = pytest.mark.skipif(not importlib.util.find_spec("ale_py"), reason="needs ale-py")
PONG, BREAKOUT = "ALE/Pong-v5", "ALE/Breakout-v5"


def play(lanes, seeds, steps, seed=0):
    """(observations, rewards, flags) of random actions."""
    rng, rows = np.random.default_rng(seed), []
    x = lanes.reset(seeds)
    for _ in range(steps):
        step = lanes.step(rng.integers(0, 3, (len(seeds), 1)))
        rows.append((x, step.final, step.reward, step.terminated, step.truncated))
        x = step.observation
    return [np.stack(each) for each in zip(*rows, strict=True)]


def test_which_ids_are_atari():
    assert is_atari(PONG)
    assert is_atari(f"ale_py:{PONG}")
    assert not is_atari("Pong-v4")
    assert not is_atari("ALE/Pong-v4")


@needs_ale
def test_lanes_keep_every_promise_of_a_vector_environment():
    env = make_training(EnvCard(PONG, kwargs={"noop_max": 1}), 2, 15, vec="ale")
    report = rlgrad.check_vector_env(env, steps=40)
    assert report.faults == ()
    assert report.episodes >= 4
    env.close()


@needs_ale
def test_a_lane_depends_on_its_seed_alone_and_the_single_environment_is_a_lane():
    seen = []
    for seeds, lane in (([3, 4, 5], 1), ([4], 0)):
        lanes = Lanes(make_training(EnvCard(PONG), len(seeds), 0, vec="ale"))
        rng, x, rows = np.random.default_rng(0), lanes.reset(seeds), []
        for _ in range(12):
            rows.append(x[lane])
            x = lanes.step(np.full((len(seeds), 1), rng.integers(3))).observation
        seen.append(np.stack(rows))
        lanes.close()
    assert seen[0].dtype == np.uint8
    assert np.array_equal(*seen)
    one, rng = make_one(PONG), np.random.default_rng(0)
    x, _ = one.reset(seed=4)
    for row in seen[1]:
        assert one.observation_space.contains(x)
        assert np.array_equal(x.reshape(-1), row)
        x, *_ = one.step(rng.integers(3))
    one.close()


@needs_ale
def test_limits_and_last_observations():
    assert time_limit(PONG) == STEPS == 27_000
    lanes = Lanes(make_training(EnvCard(PONG, kwargs={"noop_max": 1}), 2, 10, vec="ale"))
    x, final, _, terminated, truncated = play(lanes, [0, 1], 30)
    assert not terminated.any()
    assert truncated[:, 0].sum() >= 2
    ends = np.flatnonzero(truncated[:-1, 0])
    assert all((x[t + 1, 0] != final[t, 0]).any() for t in ends)  # the next episode's first
    inside = np.flatnonzero(~truncated[:-1, 0])
    assert all((x[t + 1, 0] == final[t, 0]).all() for t in inside)
    lanes.close()


@needs_ale
def test_lives_end_episodes_in_training_alone():
    def ends(env):
        lanes = Lanes(env)
        found = play(lanes, [0, 1], 80)[3].sum()
        lanes.close()
        return found

    kwargs = {"episodic_life": True, "noop_max": 1}
    assert ends(make_training(EnvCard(BREAKOUT, kwargs=kwargs), 2, vec="ale")) > 2
    assert ends(make_evaluation(BREAKOUT, 2, kwargs)) <= 2


@needs_ale
def test_what_steps_atari_and_what_is_refused():
    assert choose_vec(EnvCard(PONG), 4, 0, "auto") == ("ale", "")
    assert choose_vec(EnvCard(PONG), 4, 0, "sync") == ("sync", "")
    assert [same_bits(EnvCard(PONG), vec) for vec in ("auto", "ale", "sync", "async")] == [
        "ale", "ale", "gymnasium", "gymnasium",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="expected episodic_life"):
        make_one(PONG, {"frameskip": 2})
    with pytest.raises(UsageError, match="--vec ale steps ALE/"):
        make_training(EnvCard("CartPole-v1"), 2, vec="ale")


@needs_ale
def test_one_environment_draws_what_agents_see():
    env = make_one(PONG, {"render_mode": "rgb_array"})
    seen, _ = env.reset(seed=0)
    picture = env.render()
    assert (picture.shape, picture.dtype) == ((336, 336, 3), np.uint8)
    assert np.array_equal(picture[::4, ::4, 0], seen[-1])
    assert "FIRE" in env.get_action_meanings()
    assert spec(PONG).id == PONG
    env.close()


@pytest.mark.slow
@needs_ale
@pytest.mark.parametrize("agent", ["actor-critic", "relax", "rebar", "reinforce-learned"])
def test_agents_train_and_their_runs_say_what_resuming_cannot_keep(agent, tmp_path):
    common = {"num_envs": 2, "max_episode_steps": 8, "eval_episodes": 1, "quiet": True}
    run = rlgrad.train(
        PONG, agent, total_timesteps=16, num_steps=8, log_dir=str(tmp_path), **common
    )
    assert store.read_run(run.path).vec == "ale"
    assert run.config.reward_clip == env_card(PONG).config["reward_clip"] == 1.0
    again = rlgrad.resume(run.path, 32)
    (seed,) = again.result()["seeds"]
    assert seed["steps"] >= 32
    assert not again.result()["exact"]


@pytest.mark.slow
@needs_ale
def test_one_by_one_atari_is_resumed_exactly(tmp_path):
    settings = {
        "num_envs": 2, "num_steps": 8, "eval_episodes": 1, "quiet": True, "vec": "sync",
        "max_episode_steps": 100, "anneal_steps": 48,
    }  # fmt: skip
    first = rlgrad.train(
        PONG, "actor-critic", total_timesteps=16, log_dir=str(tmp_path / "a"), **settings
    )
    whole = rlgrad.train(
        PONG, "actor-critic", total_timesteps=48, log_dir=str(tmp_path / "b"), **settings
    )
    again = rlgrad.resume(first.path, 48)
    assert again.result()["exact"]
    for name in ("policy.flat", "critic.network.flat"):
        states = [store.load_checkpoint(r.checkpoints()[-1])[0][name] for r in (again, whole)]
        assert torch.equal(*states)


def test_without_the_package_the_command_that_installs_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(UsageError, match=r"pip install 'rlgrad\[atari\]'"):
        spec(PONG)
