"""Exported policies against the runs they are of, in onnxruntime itself."""

from __future__ import annotations

import json
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete

import rlgrad
from rlgrad.cli import main
from rlgrad.errors import UsageError
from rlgrad.exporting.checking import largest_difference, visited
from rlgrad.loading import load_learner
from rlgrad.make import make_one

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")


class Random(gymnasium.Env):
    """Observations and rewards by chance, of the spaces of a subclass."""

    action_space: gymnasium.Space = MultiDiscrete([3, 2], start=[1, 0])
    observation_space: gymnasium.Space = Box(-5, 5, (2, 2), np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed % 2**32)
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        return self.observation_space.sample(), self.np_random.normal(), False, False, {}


class Pixels(Random):
    observation_space = Box(0, 255, (3, 3), np.uint8)
    action_space = MultiBinary(3)


class Counted(Random):
    observation_space = Discrete(5, start=2)
    action_space = Discrete(4, start=-1)


class Mixed(Random):
    observation_space = Dict({"a": Box(-1, 1, (2,)), "b": Discrete(3), "c": MultiBinary(2)})


for each in (Random, Pixels, Counted, Mixed):
    if f"export/{each.__name__}-v0" not in gymnasium.registry:
        gymnasium.register(f"export/{each.__name__}-v0", each, max_episode_steps=9)

# Environment, agent, hyperparameters, shape of the input and of the outputs after the batch.
CASES = {
    "scaled": ("CartPole-v1", "actor-critic", {}, [4], [2]),
    "normalised, relu": ("Acrobot-v1", "relax", {"activation": "relu"}, [6], [3]),
    "one-hot": ("FrozenLake-v1", "reinforce", {"hidden": (8,)}, [], [4]),
    "a row of categories": ("export/Random-v0", "actor-critic", {"hidden": ()}, [2, 2], [2, 3]),
    "pixels": ("export/Pixels-v0", "actor-critic", {}, [3, 3], [3, 2]),
    "starts": ("export/Counted-v0", "actor-critic", {}, [], [4]),
    "dict": ("export/Mixed-v0", "actor-critic", {}, [7], [2, 3]),
}


def trained(name: str, folder, seeds: int = 2) -> rlgrad.Run:
    env, agent, config, _, _ = CASES[name]
    return rlgrad.train(
        env, agent, seeds=seeds, total_timesteps=600, eval_episodes=1, quiet=True,
        log_dir=str(folder), **config,
    )  # fmt: skip


def flat(space, observations) -> np.ndarray:
    return np.stack([np.asarray(gymnasium.spaces.flatten(space, x)) for x in observations])


@pytest.mark.parametrize("name", CASES)
def test_the_file_gives_the_runs_numbers(name, tmp_path, capsys):
    run, path = trained(name, tmp_path), tmp_path / "new" / "policy.onnx"
    assert main(["export", str(run.path), "--onnx", str(path), "--seed", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["largest_difference"] <= 1e-5
    session = onnxruntime.InferenceSession(path)
    (x,), (logits, probabilities) = session.get_inputs(), session.get_outputs()
    *_, takes, gives = CASES[name]
    assert [x.name, logits.name, probabilities.name] == ["observation", "logits", "probabilities"]
    assert x.shape == ["batch", *takes]
    assert logits.shape == probabilities.shape == ["batch", *gives]
    # Apart from the command's own check: through Agent, at observations of this test's choosing.
    agent = rlgrad.load(run, 1)
    agent.observation_space.seed(3)
    seen = [agent.observation_space.sample() for _ in range(5)]
    if isinstance(agent.observation_space, Dict):
        batch = flat(agent.observation_space, seen)
    else:
        batch = np.stack(seen)
    kind = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(uint8)": np.uint8}
    if np.issubdtype(batch.dtype, np.floating):
        batch = np.where(np.abs(batch) > 1e6, 1.0, batch)  # CartPole's speeds have no bound
        seen = list(batch.astype(np.float32)) if not isinstance(seen[0], dict) else seen
    theirs, p = session.run(None, {"observation": batch.astype(kind[x.type])})
    mine = np.concatenate([agent.action_probability(each) for each in seen])
    assert p == pytest.approx(mine, abs=1e-5)
    assert p.sum(-1) == pytest.approx(1.0, abs=1e-5)
    assert np.isneginf(theirs).sum() == (5 if gives == [2, 3] else 0)


def test_the_file_says_what_it_is(tmp_path, capsys):
    run, path = trained("a row of categories", tmp_path), tmp_path / "policy.onnx"
    assert main(["export", str(run.path), "--onnx", str(path)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"wrote {path}: export/Random-v0, actor-critic, seed 0, last, ")
    assert said[1].startswith("probabilities in onnxruntime differ by at most ")
    model = onnx.load(path)
    about = {each.key: each.value for each in model.metadata_props}
    assert about["environment"] == "export/Random-v0"
    assert (about["agent"], about["seed"]) == ("actor-critic", "0")
    assert json.loads(about["action_names"]) == [["1", "2", "3"], ["0", "1"]]
    assert json.loads(about["action_start"]) == [1, 0]
    assert model.opset_import[0].version == 17
    assert model.ir_version == 8


def test_a_wrong_file_is_not_written(tmp_path):
    run, path = trained("scaled", tmp_path, 1), tmp_path / "policy.onnx"
    assert main(["export", str(run.path), "--onnx", str(path)]) == 0
    env = make_one("CartPole-v1")
    actor = load_learner(run)[0].actor()
    right = path.read_bytes()
    assert largest_difference(right, actor, env) <= 1e-5
    with pytest.raises(UsageError, match="differs from the run's by"):
        largest_difference(right, lambda x: actor(x + 1.0), env)
    never = np.array([0.0, -np.inf], np.float32)
    with pytest.raises(UsageError, match="differs from the run's by inf"):
        largest_difference(right, lambda x: actor(x) + never, env)


def test_the_check_visits_many_states():
    seen = visited(make_one("CartPole-v1"))
    assert len({tuple(map(float, x)) for x in seen}) == len(seen) == 256


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained("scaled", tmp_path_factory.mktemp("export"), 1)


REFUSED = {
    "no file": ([], "export needs a file to write: --onnx policy.onnx"),
    "ending": (["--onnx", "p.pt"], "got --onnx 'p.pt'; expected a file that ends in .onnx"),
    "seed": (["--onnx", "p.onnx", "--seed", "4"], "has no seed 4; it has 0"),
    "both": (["--onnx", "p.onnx", "--best", "--last"], "got --best and --last; expected one"),
    "step": (["--onnx", "p.onnx", "--step", "1"], "no checkpoint at 1 env steps"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_one_line(name, run, tmp_path, monkeypatch, capsys):
    arguments, said = REFUSED[name]
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(run.path), *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not list(tmp_path.iterdir())


def test_the_best_is_exported(run, tmp_path):
    path = tmp_path / "best.onnx"
    assert main(["export", str(run.path), "--onnx", str(path), "--best"]) == 0
    best = rlgrad.load(run, which="best")
    (_, p) = onnxruntime.InferenceSession(path).run(None, {"observation": np.ones((1, 4), "f")})
    assert p == pytest.approx(best.action_probability(np.ones(4)), abs=1e-5)


def test_a_missing_package_is_named(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(["export", str(run.path), "--onnx", str(tmp_path / "p.onnx")]) == 2
    said = capsys.readouterr().err
    assert "exporting needs onnxruntime, which is not installed: pip install 'rlgrad[onnx]'" in said


def test_a_peer_is_refused(tmp_path, capsys):
    peer = rlgrad.train(
        "CartPole-v1", "sb3-ppo", total_timesteps=16, num_envs=1, eval_episodes=1, quiet=True,
        log_dir=str(tmp_path),
    )  # fmt: skip
    assert main(["export", str(peer.path), "--onnx", str(tmp_path / "p.onnx")]) == 2
    assert "only rlgrad's own agents are exported" in capsys.readouterr().err
    assert not (tmp_path / "p.onnx").exists()
