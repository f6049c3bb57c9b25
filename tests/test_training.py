"""Training end to end with the real thing: what a run leaves, when it ends, how it loads.

Sizes are the smallest that show the behaviour; nothing here asks whether an agent learns.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from gymnasium.spaces.utils import flatten
from kept_runs import same
from shipped import OWN

import rlgrad
from rlgrad import cards, store, training
from rlgrad.errors import UsageError
from rlgrad.evaluation import evaluate, evaluate_run
from rlgrad.loading import load_learner
from rlgrad.make import make_evaluation
from rlgrad.options import Options
from rlgrad.simulators.base import TorchVectorEnv
from rlgrad.trainer import Trainer

torch.set_num_threads(1)
N = 1100  # five rollouts of 8 x 32, the last one not whole
SMALL = {"num_envs": 2, "num_steps": 16, "hidden": (8,), "eval_episodes": 2, "quiet": True}
ALWAYS = {
    "rollout/ep_rew_mean", "rollout/ep_len_mean", "time/fps", "train/policy_loss", "train/entropy",
    "train/learning_rate", "train/n_updates", "gradient/norm", "gradient/variance", "gradient/snr",
}  # fmt: skip
CRITIC = {"train/value_loss", "train/explained_variance"}


class Own(gymnasium.Env):
    """Seven steps an episode, random observations of any space, reward for the second action."""

    seeds: ClassVar[list[int]] = []  # every seed of every reset

    def __init__(self, space=None, start=0, bad=0.0, reward=1.0):
        self.observation_space = Box(-1, 1, (2,)) if space is None else space
        self.action_space = Discrete(3, start=start)
        self.bad, self.reward = bad, reward

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.observation_space.seed(seed)
        self.time, self.is_bad = 0, self.np_random.random() < self.bad
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.time += 1
        reward = float("nan") if self.is_bad else self.reward * (action == self.action_space.start)
        return self.observation_space.sample(), float(reward), self.time == 7, False, {}


class Five(Own):
    """Simulated in training by a probe that gives 1 in one step; itself it gives 5 in seven."""

    def __init__(self):
        super().__init__(Box(-1, 1, (1,)))
        self.action_space = Discrete(2)

    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, 5.0, *rest


class Breaks(Own):
    def step(self, action):
        if self.time == 5 and self.np_random.random() < 0.02:
            raise RuntimeError("the power is out")
        return super().step(action)


SPACES = {
    "Discrete": Discrete(4, start=2),
    "MultiBinary": MultiBinary([2, 2]),
    "MultiDiscrete": MultiDiscrete([3, 2], start=[1, 1]),
    "integers": Box(-3, 9, (3,), np.int64),
    "all integers": Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (3,), np.int64),
    "image": Box(0, 255, (4, 4, 3), np.uint8),
    "float64": Box(-np.inf, np.inf, (3,), np.float64),
    "scalar": Box(-1, 1, ()),
    "Tuple": Tuple((Discrete(3), Box(0, 255, (2, 2), np.uint8))),
    "Dict": Dict({"a": Discrete(3, start=5), "b": Box(-np.inf, np.inf, (2,))}),
    "mixed": Tuple((Dict({"b": MultiDiscrete([2, 3]), "a": MultiBinary(2)}), Discrete(2, start=7))),
    "nested": Dict({"a": Tuple((MultiBinary(2), Discrete(2))), "b": Dict({"c": Discrete(2)})}),
}
if "runs/Own-v0" not in gymnasium.registry:
    gymnasium.register("runs/Own-v0", Own, reward_threshold=0.0)
    gymnasium.register("runs/Breaks-v0", Breaks)
    gymnasium.register("runs/Simulated-v0", Five)
    for i, space in enumerate(SPACES.values()):
        gymnasium.register(f"runs/Space{i}-v0", Own, kwargs={"space": space, "start": 4})


@pytest.fixture
def small(tmp_path):
    """Trains a small run in ``tmp_path``."""
    return lambda *names, **options: rlgrad.train(
        *names, **{**SMALL, "log_dir": str(tmp_path), "total_timesteps": 1, **options}
    )


def tensors(run, seed):
    """What one seed has learned, from the newest checkpoint."""
    row = run.seeds.index(seed)
    checkpoint, _ = store.load_checkpoint(run.checkpoints()[-1])
    return {
        name: x[row]
        for name, x in checkpoint.items()
        if name.split(".")[0] not in ("lanes", "episodes")
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two seeds of RELAX with everything measured, evaluated and saved as often as can be."""
    return rlgrad.train(
        "CartPole-v1", "relax", seeds="0,5", total_timesteps=N, num_envs=8, log_freq=1,
        eval_freq=640, save_freq=256, eval_episodes=3, quiet=True,
        log_dir=str(tmp_path_factory.mktemp("runs")),
    )  # fmt: skip


def test_what_a_run_directory_holds(run):
    names = {path.name for path in run.path.iterdir()}
    assert names == {
        "card.toml", "run.json", "metrics.jsonl", "result.json", "checkpoints", "seed-0", "seed-5",
    }  # fmt: skip
    about = json.loads((run.path / "run.json").read_text())
    assert {"python", "rlgrad", "torch", "gymnasium"} <= about["versions"].keys()
    assert about["command"] == sys.argv
    assert run.path.parts[-3:-1] == ("CartPole-v1", "relax")
    result = run.result()
    assert [seed["status"] for seed in result["seeds"]] == ["finished", "finished"]
    assert store.find_run("latest", run.path.parents[2]) == run.path
    assert store.read_run(run.path) == run


def test_the_card_trains_the_same_again(run, tmp_path):
    # Also: measuring, evaluating and saving all the time, or never, changes no bit of training.
    config = store.read_run(run.path).config
    flags = {"total_timesteps": N, "num_envs": 8}
    assert config == cards.resolve("CartPole-v1", "relax", None, flags).config
    again = rlgrad.train(
        run.env_id, run.agent, seeds=[5, 0], log_freq=10**9, eval_episodes=1, quiet=True,
        log_dir=str(tmp_path), **{k: v for k, v in asdict(config).items() if v is not None},
    )  # fmt: skip
    for seed in run.seeds:
        same(tensors(run, seed), tensors(again, seed))


@pytest.mark.parametrize("agent", OWN)
def test_measuring_changes_no_bit(agent):
    flags = {"num_envs": 2, "num_steps": 16, "max_episode_steps": 9}
    resolved = cards.resolve("runs/Own-v0", agent, None, flags)
    states = []
    for measure in (False, True):
        trainer = Trainer(resolved, [0, 1], Options())
        numbers = [trainer.step(measure) for _ in range(3)]
        assert all(bool(each) == measure for each in numbers)
        states.append(trainer.learner.state_dict())
        trainer.close()
    same(*states)


def test_steps_are_rounded_up_to_whole_rollouts(run):
    assert [seed["steps"] for seed in run.result()["seeds"]] == [1280, 1280]
    assert run.checkpoints()[-1].name == "step-000000001280.safetensors"


def test_steps_count_transitions_of_whole_episodes(small):
    run = small("runs/Own-v0", "reinforce", total_timesteps=30, max_episode_steps=9, log_freq=1)
    (seed,) = run.result()["seeds"]
    # Two lanes of seven steps make 14: 14, 28, 42; the padding to nine counts nothing.
    assert (seed["steps"], seed["episodes"], seed["mean_length"]) == (42, 6, 7.0)
    logged = [row for row in run.metrics() if "train/entropy" in row]
    assert [row["step"] for row in logged] == [14, 28, 42]
    assert logged[0].keys() >= ALWAYS
    assert not CRITIC & logged[0].keys()


def test_metrics_and_events_say_the_same(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows = [row for row in run.metrics() if row["seed"] == 5]
    for row in rows[1:]:  # explained variance is undefined where no return varies
        if "train/entropy" in row:
            assert {*ALWAYS, *CRITIC, "gradient/control_variate_correlation"} <= row.keys()
    assert [row["step"] for row in rows if "train/entropy" in row] == [256, 512, 768, 1024, 1280]
    events = EventAccumulator(str(run.path / "seed-5"))
    events.Reload()
    expected = {}
    for row in rows:
        for tag in row.keys() - {"seed", "step"}:
            expected.setdefault(tag, []).append((row["step"], np.float32(row[tag])))
    found = {
        tag: [(event.step, np.float32(event.value)) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }
    assert found == expected
    assert "card/text_summary" in events.Tags()["tensors"] or "card" in events.Tags()["tensors"]


def test_evaluations_come_every_so_often_and_at_the_end_and_once(run):
    rows = [row for row in run.metrics() if "eval/mean_reward" in row]
    assert [row["step"] for row in rows if row["seed"] == 5] == [768, 1280]  # every 640


def test_save_freq(run):
    steps = [int(path.stem.removeprefix("step-")) for path in run.checkpoints()]
    assert steps == [256, 512, 768, 1024, 1280]


@pytest.mark.parametrize("stop", [True, False])
def test_stop_when_solved_ends_early_and_nothing_else_does(small, stop):
    run = small("runs/Own-v0", total_timesteps=1600, stop_when_solved=stop)
    (seed,) = run.result()["seeds"]
    # Reward threshold 0 is met by the first 100 episodes of 7 steps: within the rollout at 704.
    assert seed["solved_at_step"] == 704
    assert (seed["status"], seed["steps"]) == (("solved", 704) if stop else ("finished", 1600))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_leave_a_usable_run(tmp_path, number, status):
    arguments = ["-n", "1e9", "--seeds", "2", "--log-freq", "1", "--log-dir", "runs", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "rlgrad", "train", "CartPole-v1", *arguments],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size for path in tmp_path.glob("runs/*/*/*/metrics.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert "Traceback" not in err
    run = store.read_run(store.find_run("latest", tmp_path / "runs"))
    assert json.loads(out)["seeds"] == run.result()["seeds"]
    assert {seed["status"] for seed in run.result()["seeds"]} == {"interrupted"}
    agent = rlgrad.load(run, seed=1)
    assert agent.action_probability(np.zeros(4)).shape == (1, 2)


def test_an_environment_that_breaks_leaves_what_was_learned(small, tmp_path):
    with pytest.raises(UsageError, match="the power is out"):
        small("runs/Breaks-v0", total_timesteps=10_000, log_freq=1, save_freq=32)
    run = store.read_run(store.find_run("latest", tmp_path))
    assert rlgrad.load(run).predict(np.zeros(2))[0] in range(3)
    assert run.metrics()[-1]["step"] >= 32
    # Files left open would be a ResourceWarning, which is an error in these tests.


def test_a_diverging_seed_is_frozen_and_disturbs_no_other(small):
    options = {"env_kwargs": {"bad": 0.02}, "total_timesteps": 160}
    run = small("runs/Own-v0", seeds=6, **options)
    outcomes = run.result()["seeds"]
    failed = [outcome for outcome in outcomes if outcome["status"] == "failed"]
    finished = [outcome for outcome in outcomes if outcome["status"] == "finished"]
    assert failed
    assert finished
    assert len(failed) + len(finished) == 6
    assert all(outcome["reason"] and outcome["evaluation"] is None for outcome in failed)
    assert all(outcome["steps"] == 160 and outcome["evaluation"] for outcome in finished)
    for seed in range(6):  # the last good parameters of those that failed
        assert all(x.isfinite().all() for x in tensors(run, seed).values()), seed
    seed = finished[-1]["seed"]
    alone = small("runs/Own-v0", seeds=[seed], **options)
    same(tensors(run, seed), tensors(alone, seed))


def test_evaluation_never_sees_a_seed_of_training(tmp_path):
    resolved = cards.resolve("runs/Own-v0", flags={"num_steps": 50})
    session = training.start(resolved, [0, 1], Options(log_dir=str(tmp_path)))
    Own.seeds.clear()
    for _ in range(3):
        session.trainer.step()
    trained = set(Own.seeds)
    assert len(trained) > 2 * 8 * 20  # seeds x lanes x episodes: every episode has its own
    Own.seeds.clear()
    session.save()
    for seed in (0, 1):
        learner, _ = load_learner(session.run, seed)
        evaluate(learner, "runs/Own-v0", seed, 50)
    session.trainer.close()
    session.log.close()
    played = [seed for seed in Own.seeds if seed is not None]
    assert len(set(played)) >= 2 * 2 * 50
    assert not trained & set(played)


def test_evaluation_runs_on_gymnasiums_own_environment(small, tmp_path, monkeypatch):
    lanes = make_evaluation("CartPole-v1", 2)
    assert not isinstance(lanes.unwrapped, TorchVectorEnv)
    lanes.close()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs/runs-Simulated-v0.toml").write_text(
        'id = "runs/Simulated-v0"\nsummary = "s"\nsimulator = "rlgrad/ValueProbe-v0"'
    )
    (seed,) = small("runs/Simulated-v0").result()["seeds"]
    assert (seed["mean_return"], seed["mean_length"]) == (1.0, 1.0)
    assert (seed["evaluation"]["sampled"]["mean"], seed["evaluation"]["argmax"]["mean"]) == (35, 35)


def test_evaluate_reproduces_the_runs_own_numbers(run):
    (row,) = evaluate_run(str(run.path), 0, episodes=3, env_seed=0)
    own = run.result()["seeds"][0]["evaluation"]
    assert (row["sampled"], row["argmax"]) == (own["sampled"], own["argmax"])
    (other,) = evaluate_run(str(run.path), 0, episodes=3, env_seed=1)
    assert other["sampled"] != own["sampled"]


def test_loaded_agent_predicts(run):
    agent, single = rlgrad.load(run.path, seed=5), np.array([0.01, -0.2, 0.03, 0.1])
    batch = np.stack([single, -single, 2 * single])
    p = agent.action_probability(batch)
    assert p.shape == (3, 2)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-6)
    assert agent.action_probability(single).shape == (1, 2)
    actions, state = agent.predict(batch, deterministic=True)
    assert state is None
    np.testing.assert_array_equal(actions, p.argmax(1))
    assert agent.predict(single)[0].shape == ()
    # Sampling: 4000 draws at p within 6.5 standard errors (1e-10).
    many = agent.predict(np.tile(single, (4000, 1)))[0].mean()
    assert abs(many - p[0, 1]) < 6.5 * 0.5 / 4000**0.5
    drawn = [rlgrad.load(run, seed=5).predict(np.tile(single, (50, 1)))[0] for _ in range(2)]
    np.testing.assert_array_equal(*drawn)  # the same agent, the same draws
    with pytest.raises(ValueError, match="shape"):
        agent.predict(np.zeros((2, 3)))


def test_stable_baselines3_evaluates_an_agent_unchanged(run):
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import DummyVecEnv

    agent = rlgrad.load(run)
    mean, _ = evaluate_policy(agent, Monitor(gymnasium.make("CartPole-v1")), n_eval_episodes=3)
    assert 8 <= mean <= 500
    lanes = DummyVecEnv([lambda: Monitor(gymnasium.make("CartPole-v1"))] * 2)
    lanes.seed(0)
    returns, lengths = evaluate_policy(
        agent, lanes, n_eval_episodes=4, deterministic=False, return_episode_rewards=True
    )
    assert returns == lengths


@pytest.mark.parametrize("name", SPACES)
def test_any_observation_space_trains_loads_and_acts(small, name):
    env_id = f"runs/Space{list(SPACES).index(name)}-v0"
    agent, env = rlgrad.load(small(env_id)), gymnasium.make(env_id)
    observation, _ = env.reset(seed=0)
    action, _ = agent.predict(observation)
    env.step(action)
    single = agent.action_probability(observation)
    flat = np.asarray(flatten(env.observation_space, observation), np.float32)
    logits = agent.policy.actor()(flat.reshape(1, 1, -1))[0, 0]
    np.testing.assert_allclose(single, torch.from_numpy(logits).softmax(-1).numpy(), rtol=1e-6)
    assert single.shape == (1, 3)
    lanes = gymnasium.make_vec(env_id, 3)
    batch, _ = lanes.reset(seed=0)  # the first lane has the same observation
    actions, _ = agent.predict(batch)
    lanes.step(actions)
    np.testing.assert_allclose(agent.action_probability(batch)[0], single[0], rtol=1e-6)


def test_environment_modules_and_arguments(small, tmp_path, monkeypatch):
    module = "own_module_of_a_test"
    (tmp_path / f"{module}.py").write_text(
        "import gymnasium\n"
        f"gymnasium.register('{module}-v0', 'test_training:Own', kwargs={{'reward': 1.0}})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="unknown environment"):
        small(f"{module}-v0")
    run = small(f"{module}-v0", env_modules=[module], env_kwargs={"reward": 0.0})
    assert run.result()["seeds"][0]["mean_return"] == 0.0
    assert store.read_run(run.path).env_kwargs == {"reward": 0.0}
    # A run from elsewhere must not choose code to run: loading it asks for consent.
    monkeypatch.delitem(sys.modules, module)
    with pytest.raises(UsageError, match=f"--env-module {module}"):
        rlgrad.load(run)
    gymnasium.registry.pop(f"{module}-v0")
    assert rlgrad.load(run, env_modules=[module]).predict(np.zeros(2))[0] in range(3)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("lerning_rate", 1, "did you mean learning_rate"),
        ("gamma", "big", "gamma = 'big'"),
        ("device", "tpu", "device"),
        ("eval_episodes", 0, "eval.episodes"),
        ("quiet", 3, "quiet"),
        ("seeds", [1, 1], "seeds"),
        ("env_kwargs", {"sutton_barto_reward": object()}, "env.kwargs"),
    ],
)
def test_bad_arguments_of_train(small, tmp_path, key, value, said):
    with pytest.raises(UsageError, match=said):
        small("CartPole-v1", **{key: value})
    assert not list(tmp_path.iterdir())


def test_a_path_is_a_log_directory(small, tmp_path):
    assert small("CartPole-v1", log_dir=tmp_path).metrics()
