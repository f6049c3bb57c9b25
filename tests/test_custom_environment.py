"""A user's own environment, from a package in the working directory to a trained agent."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import rlgrad
from rlgrad.cli import main
from rlgrad.finding import home

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture
def here(monkeypatch, tmp_path):
    """Work in a folder that Python does not know, as the installed command does; forget after."""

    def enter(folder):
        monkeypatch.chdir(folder)
        known = [each for each in sys.path if each and Path(each).resolve() != Path(folder)]
        monkeypatch.setattr(sys, "path", known)

    modules, own = set(sys.modules), ("my_pkg", "mine", "bare")
    yield enter
    # Only theirs: what rlgrad itself registers meanwhile would not come again in this process.
    for name in [name for name, found in gymnasium.registry.items() if home(found) in own]:
        del gymnasium.registry[name]
    for name in set(sys.modules) - modules:
        if name.partition(".")[0] in own:
            del sys.modules[name]


def trained(folder, *flags):
    options = ("--vec", "sync", "--eval-episodes", "5", "--log-dir", str(folder), "--quiet")
    assert main(["train", "my_pkg:MyEnv-v0", *options, *flags]) == 0
    (path,) = folder.glob("*/*/*")
    return path


def test_the_example_trains_and_is_read_again(here, tmp_path, capsys):
    here(EXAMPLES)
    run = trained(tmp_path, "-n", "512")
    capsys.readouterr()
    assert main(["evaluate", str(run), "--env-module", "my_pkg", "--episodes", "5", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert -0.5 <= row["sampled"]["mean"] <= 1.0
    agent = rlgrad.load(run, env_modules=["my_pkg"])
    assert agent.policy.masked
    assert agent.policy.features == 3 * 5 + 1
    env = gymnasium.make("MyEnv-v0", render_mode="rgb_array")
    observation, info = env.reset(seed=3)
    assert env.render().shape == (96, 240, 3)
    for _ in range(20):
        action, _ = agent.predict(observation, action_mask=info["action_mask"])
        assert info["action_mask"][action]
        observation, _, over, _, info = env.step(action)
        if over:
            observation, info = env.reset()
    env.close()


@pytest.mark.slow
def test_the_example_is_learned(here, tmp_path):
    """Seed 1000, not chosen by its outcome; random allowed actions come to about 0."""
    here(EXAMPLES)
    run = trained(tmp_path, "-n", "20000", "--seed", "1000")
    assert rlgrad.load(run).action_probability is not None
    assert json.loads((run / "result.json").read_text())["seeds"][0]["mean_return"] > 0.3


CLASS = """
import gymnasium, numpy as np
class Own(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.{action}
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return {given}
    def step(self, action):
        return np.zeros(2, np.float32), 1.0, False, False, {{}}
gymnasium.register("Own-v0", entry_point=Own, max_episode_steps=9)
"""
PAIR = "np.zeros(2, np.float32), {}"
MISTAKES = {
    "nowhere:Own-v0": (PAIR, "Discrete(2)", "in this directory or installed with pip install -e"),
    "bare:Own-v0": (PAIR, "Discrete(2)", "registers none: it must call gymnasium.register"),
    "mine:Owm-v0": (PAIR, "Discrete(2)", "did you mean Own-v0?"),
    "mine:Other-v0": (PAIR, "Discrete(2)", "there are Own-v0"),
    "mine:Own-v0": (PAIR, "Box(-1, 1, (1,))", "continuous action space"),
    "mine:Own-v0 ": ("np.zeros(2, np.float32)", "Discrete(2)", "expected a pair"),
}


@pytest.mark.filterwarnings("ignore:.*reset.*:UserWarning")
@pytest.mark.parametrize("case", MISTAKES)
def test_usual_mistakes_are_named(here, tmp_path, capsys, case):
    given, action, said = MISTAKES[case]
    (tmp_path / "mine.py").write_text(CLASS.format(given=given, action=action))
    (tmp_path / "bare.py").write_text("number = 1\n")
    here(tmp_path)
    assert main(["train", case.strip(), "-n", "9", "--log-dir", str(tmp_path / "runs")]) == 2
    line = capsys.readouterr().err.strip()
    assert said in line
    assert "\n" not in line
    assert not (tmp_path / "runs").exists()


def test_what_is_installed_wins_over_the_working_directory(here, tmp_path):
    """A file called numpy.py beside the user's must not become numpy."""
    (tmp_path / "json.py").write_text("raise RuntimeError('not this one')\n")
    (tmp_path / "mine.py").write_text(CLASS.format(given=PAIR, action="Discrete(2)"))
    here(tmp_path)
    before = list(sys.path)
    flags = ("--env-module", "json", "-n", "64", "--quiet", "--vec", "sync")
    runs = str(tmp_path / "runs")
    assert main(["train", "mine:Own-v0", *flags, "--log-dir", runs, "--eval-episodes", "2"]) == 0
    assert sys.path == [*before, str(tmp_path)]
    assert np.isfinite(rlgrad.load("latest", log_dir=runs).action_probability([0.0, 0.0])).all()
