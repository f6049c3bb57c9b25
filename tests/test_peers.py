"""Peers with the real Stable-Baselines3: the same bits as by hand, and the same run as rlgrad's.

Budgets are the smallest that show the behaviour; nothing here asks whether a peer learns.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import gymnasium
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from gymnasium.spaces.utils import flatten, unflatten
from gymnasium.vector.utils import concatenate, create_empty_array
from shipped import PEERS
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecNormalize

import rlgrad
from rlgrad import cards, store
from rlgrad.cli import main
from rlgrad.clock import Clock
from rlgrad.errors import UsageError
from rlgrad.evaluation import evaluate
from rlgrad.loading import load_learner, load_policy
from rlgrad.peers.algorithm import Subject, constructor_arguments
from rlgrad.peers.policy import unflattened
from rlgrad.streams import Purpose, derive

torch.set_num_threads(1)
OFTEN = {"log_freq": 1, "eval_freq": 250, "save_freq": 250, "eval_episodes": 2, "quiet": True}
SEED = 1003


class Own(gymnasium.Env):
    """Seven steps an episode, random observations of any space, 1 for action 0 of each factor."""

    def __init__(self, space=None, actions=None, bad=0.0, reward=1.0):
        self.observation_space = Box(-1, 1, (2,)) if space is None else space
        self.action_space = Discrete(3) if actions is None else actions
        self.bad, self.reward = bad, reward

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(int(self.np_random.integers(1 << 30)))
        self.time = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.time += 1
        if self.np_random.random() < self.bad:
            raise RuntimeError("the power\nis out")
        reward = self.reward * float(np.all(np.asarray(action) == 0))
        return self.observation_space.sample(), reward, self.time == 7, False, {}


SPACES = {
    "Discrete": Discrete(5),
    "MultiDiscrete": MultiDiscrete([3, 2]),
    "MultiBinary": MultiBinary(4),
    "float64": Box(-2, 2, (2, 3), np.float64),
    "bytes": Box(0, 255, (3, 2), np.uint8),
    "Dict": Dict({"a": Discrete(3), "b": Box(-1, 1, (2,)), "c": MultiDiscrete([2, 4])}),
}
ACTIONS = {"Discrete": Discrete(3), "MultiDiscrete": MultiDiscrete([3, 2]), "bits": MultiBinary(3)}
if "peers/Own-v0" not in gymnasium.registry:
    gymnasium.register("peers/Own-v0", Own, reward_threshold=0.0)
    gymnasium.register("peers/Tuple-v0", Own, kwargs={"space": Tuple((Discrete(2), Discrete(3)))})
    gymnasium.register("peers/Start-v0", Own, kwargs={"actions": Discrete(3, start=1)})
    for name, space in SPACES.items():
        gymnasium.register(f"peers/{name}-v0", Own, kwargs={"space": space})
    for name, space in ACTIONS.items():
        gymnasium.register(f"peers/To{name}-v0", Own, kwargs={"actions": space})


def by_hand(cls, env_id, seed, count, total, normalize=None, **arguments):
    """What a user of Stable-Baselines3 would write."""
    options = {"render_mode": None, "max_episode_steps": 60}
    env = make_vec_env(env_id, count, seed=seed, env_kwargs=options)
    if normalize is not None:
        env = VecNormalize(env, **normalize)
    return cls("MlpPolicy", env, seed=seed, device="cpu", **arguments).learn(total)


def falls(start):
    return lambda left: left * start


ZOO_PPO = {
    "n_steps": 32, "batch_size": 256, "gae_lambda": 0.8, "gamma": 0.98, "n_epochs": 20,
    "ent_coef": 0.0, "learning_rate": falls(0.001), "clip_range": falls(0.2),
}  # fmt: skip
DQN = {"learning_starts": 50, "buffer_size": 500}
CASES = {
    "sb3-ppo": ("sb3-ppo", "CartPole-v1", {}, stable_baselines3.PPO, 8, None, ZOO_PPO),
    "sb3-a2c": ("sb3-a2c", "CartPole-v1", {}, stable_baselines3.A2C, 8, None, {"ent_coef": 0.0}),
    "normalised": (
        "sb3-a2c", "Acrobot-v1", {"gamma": 0.9, "normalize": {"clip_obs": 0.5}},
        stable_baselines3.A2C, 16, {"gamma": 0.9, "clip_obs": 0.5},
        {"ent_coef": 0.0, "gamma": 0.9},
    ),
    "defaults": (
        "sb3:stable_baselines3.A2C", "FrozenLake-v1", {}, stable_baselines3.A2C, 1, None, {},
    ),
    "DQN": (
        "sb3:stable_baselines3.DQN", "CartPole-v1", {**DQN, "train_freq": [2, "step"]},
        stable_baselines3.DQN, 1, None, {**DQN, "train_freq": (2, "step")},
    ),
    "TRPO": (
        "sb3:sb3_contrib.TRPO", "CartPole-v1",
        {"n_steps": 128, "policy_kwargs": {"net_arch": [16], "activation_fn": "ReLU"}},
        sb3_contrib.TRPO, 1, None,
        {"n_steps": 128, "policy_kwargs": {"net_arch": [16], "activation_fn": torch.nn.ReLU}},
    ),
}  # fmt: skip


def streams():
    """Where the process's streams stand; Python's own is moved by the checks of shapes."""
    return np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002


SLOW = {"defaults": pytest.mark.slow, "TRPO": pytest.mark.slow}


@pytest.fixture(
    scope="module", params=[pytest.param(case, marks=SLOW.get(case, ())) for case in CASES]
)
def pair(request, tmp_path_factory):
    """(a run of a peer, watched as closely as can be; the same by hand)."""
    agent, env_id, given, cls, count, normalize, arguments = CASES[request.param]
    before = streams()
    run = rlgrad.train(
        env_id, agent, seeds=[5, SEED], total_timesteps=512, max_episode_steps=60,
        peer_arguments=given,
        log_dir=tmp_path_factory.mktemp("runs"), **OFTEN,
    )  # fmt: skip
    assert streams() == before, "the process's streams are as they were"
    return run, by_hand(cls, env_id, SEED, count, 512, normalize, **arguments)


def observations(run, count=64):
    space = gymnasium.make(run.env_id).observation_space
    space.seed(0)
    if isinstance(space, Box):
        return np.random.default_rng(0).normal(size=(count, *space.shape)).astype(np.float32)
    return np.array([space.sample() for _ in range(count)])


def test_a_seed_has_the_bits_of_stable_baselines3_by_hand(pair):
    # Also: beside another seed, evaluated, logged and saved all the time, or never.
    run, model = pair
    tensors, counters = store.load_checkpoint(run.checkpoints()[-1])
    state = model.policy.state_dict()
    found = {k.partition("/policy.")[2] for k in tensors if k.startswith(f"{SEED}/policy.")}
    assert found == state.keys()
    for name, expected in state.items():
        assert torch.equal(tensors[f"{SEED}/policy.{name}"], expected), name
    assert counters["steps"][1] == model.num_timesteps
    normaliser = model.get_vec_normalize_env()
    assert (f"{SEED}/observations.mean" in tensors) == (normaliser is not None)
    if normaliser is not None:
        for name, each in (("observations", normaliser.obs_rms), ("returns", normaliser.ret_rms)):
            for part in ("mean", "var", "count"):
                np.testing.assert_array_equal(
                    tensors[f"{SEED}/{name}.{part}"].numpy(), getattr(each, part)
                )


def test_a_loaded_peer_predicts_as_stable_baselines3_does(pair):
    run, model = pair
    agent, raw = rlgrad.load(run, SEED), observations(run)
    normaliser = model.get_vec_normalize_env()
    x = raw if normaliser is None else normaliser.normalize_obs(raw)
    expected, _ = model.predict(x, deterministic=True)
    np.testing.assert_array_equal(agent.predict(raw, deterministic=True)[0], expected)
    p = agent.action_probability(raw)
    if hasattr(model, "exploration_rate"):
        share = model.exploration_rate
        assert 0 < share < 1
        theirs = np.full_like(p, share / 2)
        theirs[np.arange(len(p)), expected] += 1 - share
        np.testing.assert_allclose(p, theirs, rtol=1e-6)
    else:
        theirs = model.policy.get_distribution(model.policy.obs_to_tensor(x)[0]).distribution
        # The softmax of the same logits, taken by another function: one rounding.
        np.testing.assert_allclose(p, theirs.probs.detach().numpy(), rtol=1e-6)
    assert agent.predict(raw[0])[0].shape == ()


def test_what_a_run_of_a_peer_holds(pair):
    run, model = pair
    again = store.read_run(run.path)
    assert again == run
    assert set(json.loads((run.path / "run.json").read_text())["versions"]) >= {"sb3-contrib"}
    text = (run.path / "card.toml").read_text()
    assert "hidden" not in text
    assert "critic_learning_rate" not in text
    result, rows = run.result(), run.metrics()
    assert [seed["status"] for seed in result["seeds"]] == ["finished", "finished"]
    assert result["together"] == 1
    assert all("time/cpu_seconds" in row and "time/wall_seconds" in row for row in rows)
    own = [row for row in rows if row["seed"] == SEED]
    # Evaluation is not on the clock: its row has the seconds of the point logged before it.
    clocks = [(row["time/cpu_seconds"], row["time/wall_seconds"]) for row in own]
    assert clocks == sorted(clocks)
    evaluated = [i for i, row in enumerate(own) if "eval/mean_reward" in row]
    assert len(evaluated) >= 2
    for i in evaluated:
        assert own[i]["step"] == own[i - 1]["step"]
        assert clocks[i] == clocks[i - 1]
    last = [max(r["time/cpu_seconds"] for r in rows if r["seed"] == seed) for seed in run.seeds]
    assert result["cpu_seconds"] == pytest.approx(sum(last), rel=1e-12)
    assert any(tag.startswith("train/") for row in own for tag in row)
    assert own[-1]["step"] == result["seeds"][1]["steps"] == model.num_timesteps


def test_a_run_of_a_peer_has_the_keys_of_one_of_rlgrads(tmp_path):
    runs = [
        rlgrad.train("peers/Own-v0", agent, total_timesteps=40, log_dir=tmp_path, **OFTEN)
        for agent in ("actor-critic", "sb3:stable_baselines3.A2C")
    ]
    ours, theirs = (run.result() for run in runs)
    assert list(ours) == list(theirs)
    assert list(ours["seeds"][0]) == list(theirs["seeds"][0])
    files = [{path.name for path in run.path.iterdir()} for run in runs]
    assert files[0] == files[1]
    tags = [set().union(*run.metrics()) for run in runs]
    named = "policy_loss", "value_loss", "explained_variance", "learning_rate", "n_updates"
    shared = {"rollout/ep_rew_mean", "rollout/ep_len_mean", "time/fps"}
    assert shared | {f"train/{name}" for name in named} <= tags[0] & tags[1]
    with pytest.raises(UsageError, match="no learner"):
        load_learner(runs[1])


def test_evaluation_is_that_of_stable_baselines3_on_the_same_episodes(tmp_path):
    run = rlgrad.train(
        "Acrobot-v1", "sb3-a2c", total_timesteps=1600, max_episode_steps=60, quiet=True,
        seeds=[SEED], eval_episodes=3, log_dir=tmp_path,
    )  # fmt: skip
    lanes = [derive(SEED, Purpose.EVALUATE, 1, lane) for lane in range(3, 6)]
    seeds = iter([derive(lane, Purpose.RESET, 0) & 0x7FFFFFFF for lane in lanes] + [0] * 9)

    class Chosen(gymnasium.Wrapper):
        def reset(self, *, seed=None, options=None):
            return super().reset(seed=next(seeds))

    class Normalised:
        """Their interface, with the moments of the loaded policy."""

        def __init__(self, policy):
            self.policy = policy

        def predict(self, x, **options):
            return self.policy.algorithm.predict(self.policy.normaliser.normalize_obs(x), **options)

    env = Monitor(Chosen(gymnasium.make("Acrobot-v1", max_episode_steps=60)))
    policy = load_policy(run, SEED)
    moments = policy.normaliser.obs_rms.mean.copy()
    returns, lengths = evaluate_policy(
        Normalised(policy), env, 3, deterministic=True, return_episode_rewards=True
    )
    (seed,) = run.result()["seeds"]
    argmax = seed["evaluation"]["argmax"]
    assert (argmax["mean"], argmax["mean_length"]) == (np.mean(returns), np.mean(lengths))
    again = evaluate(policy, "Acrobot-v1", SEED, 3, max_episode_steps=60)
    assert again.to_dict() == seed["evaluation"]
    np.testing.assert_array_equal(policy.normaliser.obs_rms.mean, moments)


def batch(space, count=5):
    space.seed(3)
    rows = [space.sample() for _ in range(count)]
    return rows, concatenate(space, rows, create_empty_array(space, count))


@pytest.mark.parametrize("name", SPACES)
def test_observations_are_unflattened_as_gymnasium_does(name):
    space = SPACES[name]
    rows, expected = batch(space)
    flat = np.stack([flatten(space, row) for row in rows]).astype(np.float32)
    found = unflattened(space, flat)
    pairs = found.items() if isinstance(found, dict) else [("", found)]
    for key, value in pairs:
        # float64 observations go through the float32 of the flattened ones, as for every agent.
        want = expected[key] if key else expected
        np.testing.assert_array_equal(np.float32(value), np.float32(want))
    back = [unflatten(space, row) for row in flat]
    assert len(back) == 5


@pytest.mark.parametrize("name", [*SPACES, *(f"To{each}" for each in ACTIONS)])
def test_spaces_train_load_and_act(tmp_path, name):
    run = rlgrad.train(
        f"peers/{name}-v0", "sb3-a2c", total_timesteps=20, eval_episodes=2, quiet=True,
        log_dir=tmp_path,
    )  # fmt: skip
    agent, env = rlgrad.load(run), gymnasium.make(run.env_id)
    model, space = agent.policy.algorithm, env.observation_space
    _, many = batch(space)
    actions, _ = agent.predict(many, deterministic=True)
    np.testing.assert_array_equal(actions, model.predict(many, deterministic=True)[0])
    for action in actions:
        assert env.action_space.contains(action)
    p = agent.action_probability(many)
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-6)
    if name == "Tobits":
        x = model.policy.obs_to_tensor(many)[0]
        bits = model.policy.get_distribution(x).distribution.probs.detach().numpy()
        np.testing.assert_allclose(p[..., 1], bits, rtol=1e-5)


def test_a_sampled_action_has_the_policys_probability(tmp_path):
    run = rlgrad.train(
        "peers/Own-v0", "sb3:stable_baselines3.DQN", total_timesteps=60, eval_episodes=1,
        peer_arguments={"exploration_final_eps": 0.3, "learning_starts": 10}, quiet=True,
        log_dir=tmp_path,
    )  # fmt: skip
    agent = rlgrad.load(run)
    p = agent.action_probability(np.zeros(2))[0]
    assert sorted(p)[:2] == pytest.approx([0.1, 0.1])
    drawn = agent.predict(np.zeros((4000, 2)))[0]
    share = np.bincount(drawn, minlength=3) / 4000
    # Three counts of 4000 draws of a seeded stream, each within 6.5 standard errors: 3e-10.
    assert np.all(abs(share - p) < 6.5 * np.sqrt(p * (1 - p) / 4000))


@pytest.mark.parametrize(
    ("agent", "given"),
    [("actor-critic", None), ("sb3:stable_baselines3.A2C", {"n_steps": 32})],
)
@pytest.mark.parametrize("stop", [True, False])
def test_the_moment_of_solving_is_kept(tmp_path, agent, given, stop):
    run = rlgrad.train(
        "peers/Own-v0", agent, seeds=2, total_timesteps=900, stop_when_solved=stop, num_envs=2,
        eval_episodes=1, peer_arguments=given, quiet=True, log_dir=tmp_path,
    )  # fmt: skip
    result = run.result()
    for seed in result["seeds"]:
        # Threshold 0 is met by the first 100 episodes of 7 steps: 700, and the rollout's end.
        assert 700 <= seed["solved_at_step"] < 700 + 2 * 32
        assert seed["status"] == ("solved" if stop else "finished")
        assert 0 < seed["solved_at_seconds"]["wall"] <= result["wall_seconds"]
        assert 0 < seed["solved_at_seconds"]["cpu"] <= result["cpu_seconds"]
        assert (seed["steps"] == seed["solved_at_step"]) == stop


def test_a_paused_clock_stands_still():
    clock = Clock()
    assert clock.read() == (0.0, 0.0)
    with clock:
        with clock.paused():
            there = clock.read()
            sum(range(100_000))
            assert clock.read() == there
        sum(range(100_000))
    assert clock.read().cpu > there.cpu
    assert clock.read() == clock.read()


def test_an_environment_that_breaks_fails_its_seed_alone(tmp_path):
    run = rlgrad.train(
        "peers/Own-v0", "sb3-a2c", seeds=4, total_timesteps=600, env_kwargs={"bad": 0.002},
        peer_arguments={"n_steps": 20},
        eval_episodes=1, quiet=True, log_dir=tmp_path,
    )  # fmt: skip
    seeds = run.result()["seeds"]
    failed = [seed for seed in seeds if seed["status"] == "failed"]
    assert 0 < len(failed) < 4
    for seed in failed:
        assert seed["reason"] == f"RuntimeError: the power is out, after {seed['steps']} env steps"
        assert seed["evaluation"] is None
        assert rlgrad.load(run, seed["seed"]).predict(np.zeros(2))[0] in range(3)
    assert all(s["evaluation"] for s in seeds if s["status"] == "finished")


def test_numbers_that_are_not_finite_fail_the_seed(tmp_path):
    run = rlgrad.train(
        "peers/Own-v0", "sb3-a2c", total_timesteps=600, env_kwargs={"reward": float("nan")},
        eval_episodes=1, quiet=True, log_dir=tmp_path,
    )  # fmt: skip
    (seed,) = run.result()["seeds"]
    assert seed["status"] == "failed"
    assert "nan" in seed["reason"].lower()
    tensors, _ = store.load_checkpoint(run.checkpoints()[-1])
    assert all(bool(x.isfinite().all()) for x in tensors.values())


def test_what_the_session_itself_cannot_do_is_no_failure_of_the_peer(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(store, "save_checkpoint", full)
    with pytest.raises(UsageError, match=r"cannot write .*: no space left on device; "):
        rlgrad.train("peers/Own-v0", "sb3-a2c", total_timesteps=600, log_dir=tmp_path, **OFTEN)


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
    ],
)
def test_a_signal_leaves_a_usable_run(tmp_path, number, status):
    arguments = ["-n", "1e9", "--seeds", "2", "--log-freq", "1", "--log-dir", "runs", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "rlgrad", "train", "CartPole-v1", "--agent", "sb3-ppo", *arguments],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size for path in tmp_path.glob("runs/*/*/*/metrics.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == status
    assert "Traceback" not in err
    run = store.read_run(store.find_run("latest", tmp_path / "runs"))
    first, second = run.result()["seeds"]
    assert json.loads(out)["seeds"] == [first, second]
    assert {first["status"], second["status"]} == {"interrupted"}
    assert first["steps"] > second["steps"] == 0
    assert rlgrad.load(run, 0).action_probability(np.zeros(4)).shape == (1, 2)
    with pytest.raises(UsageError, match="seed 1 had not begun"):
        rlgrad.load(run, 1)


# Agent, arguments of train, what the line must say.
REFUSED = {
    "flag": ("sb3-ppo", {"gamma": 0.5}, "sb3-ppo .* takes no gamma; it takes total_timesteps"),
    "flags": ("sb3-a2c", {"hidden": [8], "num_steps": 3}, "takes no hidden, num_steps;"),
    "estimator": ("sb3-a2c", {"estimator": "relax"}, "estimator relax, and sb3-a2c is a peer"),
    "argument": ("sb3-ppo", {"peer_arguments": {"gama": 1}}, "'gama'; did you mean gamma"),
    "schedule": ("sb3-ppo", {"peer_arguments": {"gamma": "lin_x"}}, "'lin_x'; expected lin_ and"),
    "ours": ("sb3-ppo", {"peer_arguments": {"seed": 3}}, "'seed' is not for a card"),
    "data": ("sb3-ppo", {"peer_arguments": {"gamma": object()}}, "peer_arguments = .*expected"),
    "activation": (
        "sb3-a2c", {"peer_arguments": {"policy_kwargs": {"activation_fn": "os.system"}}},
        "activation_fn = 'os.system'; expected one of",
    ),
    "normalize": ("sb3-a2c", {"peer_arguments": {"normalize": "dict()"}}, "normalize = 'dict"),
    "normaliser": ("sb3-a2c", {"peer_arguments": {"normalize": {"clip": 1}}}, "'clip'"),
    "policy": ("sb3-a2c", {"peer_arguments": {"policy": "Nope"}}, "cannot be made .*Nope"),
    "zoo's name": ("sb3-a2c", {"peer_arguments": {"n_envs": 3}}, "did you mean num_envs"),
    "own agent": ("relax", {"peer_arguments": {"gamma": 1.0}}, "relax is no peer"),
    "seed": ("sb3-a2c", {"seeds": [1 << 32]}, r"below 2\^32"),
    "continuous": ("sb3:stable_baselines3.SAC", {}, "SAC cannot be made for CartPole-v1: .*Box"),
    "memory": ("sb3:sb3_contrib.RecurrentPPO", {}, "RecurrentPPO"),
    "masks": ("sb3:sb3_contrib.MaskablePPO", {}, "MaskablePPO masks actions"),
    "no path": ("sb3:DQN", {}, "'DQN'; expected a Python path"),
    "empty": ("sb3:", {}, "expected a Python path"),
    "no module": ("sb3:nowhere_at_all.DQN", {}, "cannot import module 'nowhere_at_all'"),
    "no class": ("sb3:stable_baselines3.DQM", {}, "did you mean DQN"),
    "no algorithm": ("sb3:json.JSONDecoder", {}, "json.JSONDecoder is no algorithm of"),
    "abstract": (
        "sb3:stable_baselines3.common.base_class.BaseAlgorithm", {}, "is no algorithm of",
    ),
    "no agent": ("sb3-pppo", {}, "did you mean sb3-ppo"),
}  # fmt: skip


@pytest.mark.parametrize(("agent", "given", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_work_is_refused_in_one_line(tmp_path, agent, given, said):
    with pytest.raises(UsageError, match=said) as caught:
        rlgrad.train("CartPole-v1", agent, log_dir=tmp_path, **{"total_timesteps": 1, **given})
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "said"), [("Tuple", "cannot be made"), ("Start", "from 0")])
def test_spaces_that_stable_baselines3_does_not_know(tmp_path, name, said):
    with pytest.raises(UsageError, match=said):
        rlgrad.train(f"peers/{name}-v0", "sb3-a2c", total_timesteps=1, log_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train = ["train", "CartPole-v1", "--agent", "sb3-a2c", "--eval-episodes", "1", "--json"]
    small = ["-n", "40", "--num-envs", "4", "--peer-arg", "n_steps:10", "learning_rate:lin_1e-3"]
    assert main([*train, *small]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    run = store.read_run(tmp_path / result["run"])
    assert run.config.num_envs == 4
    assert run.peer.arguments == {"ent_coef": 0.0, "n_steps": 10, "learning_rate": "lin_1e-3"}
    assert main(["evaluate", "latest", "--episodes", "2"]) == 0
    assert main(["list", "agents"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(any(name in line and "peer" in line for line in lines) for name in PEERS)
    for bad in (["--learning-rate", "1"], ["--estimator", "relax"], ["--peer-arg", "gamma"]):
        assert main([*train, *bad]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_defaults_are_said_aloud():
    (note,) = cards.resolve("FrozenLake-v1", "sb3-ppo").notes
    assert "sb3-ppo has no settings for FrozenLake-v1" in note
    first, second = cards.resolve("Taxi-v3", "sb3-a2c").notes
    assert "no settings for Taxi-v3" in first
    assert "100,000 env steps" in second
    resolved = cards.resolve("CartPole-v1", "sb3-a2c")
    assert resolved.notes == ()
    assert (resolved.config.total_timesteps, resolved.config.num_envs) == (100_000, 8)
    assert resolved.env.simulator == ""


def test_schedules_fall_linearly_to_nothing():
    resolved = cards.resolve("CartPole-v1", "sb3-ppo")
    subject = Subject("sb3-ppo", "CartPole-v1", {}, resolved.config, resolved.peer)
    arguments = constructor_arguments(subject, stable_baselines3.PPO)
    for key, start in (("learning_rate", 0.001), ("clip_range", 0.2)):
        assert [arguments[key](left) for left in (1.0, 0.5, 0.0)] == [start, start / 2, 0.0]


ALGORITHM = """
from stable_baselines3 import A2C


class Mine(A2C):
    pass
"""


def test_only_the_user_chooses_what_is_imported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = "own_algorithm_of_a_test"
    (tmp_path / f"{module}.py").write_text(ALGORITHM)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "agents").mkdir()
    card = f'summary="s"\nsource="t"\nalgorithm="{module}.Mine"\n[arguments]\n'
    (tmp_path / "agents/mine.toml").write_text(card)
    with pytest.raises(UsageError, match=f"a card may name .*--agent sb3:{module}.Mine"):
        rlgrad.train("CartPole-v1", "mine")
    assert module not in sys.modules
    run = rlgrad.train(
        "CartPole-v1", f"sb3:{module}.Mine", total_timesteps=5, eval_episodes=1, quiet=True
    )
    assert rlgrad.load(run).predict(np.zeros(4))[0] in (0, 1)
    monkeypatch.delitem(sys.modules, module)
    with pytest.raises(UsageError, match=f"for its algorithm; .*--env-module {module}"):
        rlgrad.load(run)
    assert module not in sys.modules
    agent = rlgrad.load(run, env_modules=[module])
    assert type(agent.policy.algorithm).__name__ == "Mine"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"stable_baselines3.A2C"', '"os"', "expected a Python path"),
        ("ent_coef", "seed", "'seed' is not for a card"),
        ("num_envs", "num_env", "did you mean num_envs"),
        ('algorithm = "stable_baselines3.A2C"', "", "peer has no 'algorithm'"),
        ("ent_coef = 0.0", "policy_kwargs = {net_arch = [3]}", "its card needs"),
    ],
)
def test_a_damaged_card_of_a_run_is_refused(tmp_path, old, new, said):
    run = rlgrad.train(
        "CartPole-v1", "sb3-a2c", total_timesteps=1, eval_episodes=1, quiet=True, log_dir=tmp_path
    )
    path = run.path / "card.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UsageError, match=said) as caught:
        rlgrad.load(run.path)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("env", ["Acrobot-v1", "CartPole-v1", "FrozenLake-v1", "MountainCar-v0"])
@pytest.mark.parametrize("agent", PEERS)
def test_every_shipped_peer_trains_everywhere(agent, env, tmp_path):
    run = rlgrad.train(
        env, agent, total_timesteps=9, max_episode_steps=60, eval_episodes=1, quiet=True,
        log_dir=tmp_path, peer_arguments={"n_steps": 16},
    )  # fmt: skip
    (seed,) = run.result()["seeds"]
    assert seed["status"] == "finished"
    assert store.read_run(run.path).peer == run.peer
