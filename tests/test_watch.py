"""Watching for real: runs that play, files that are opened again, and what is refused."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, MultiDiscrete
from PIL import Image

import rlgrad
from rlgrad.action_names import action_names
from rlgrad.agent import Agent
from rlgrad.cli import main
from rlgrad.evaluation import evaluate
from rlgrad.loading import load_policy
from rlgrad.streams import Purpose, derive
from rlgrad.watching.panel import CHOSEN, GROUND, WIDTH, Panel, magnified
from rlgrad.watching.playing import Moment, drawn_environment, play
from rlgrad.watching.recording import CLIP, kind_of
from rlgrad.watching.values import value_of

ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="needs the extra watch")
pytest.importorskip("moviepy", reason="needs the extra watch")
pytest.importorskip("pygame", reason="needs the extra watch")


class Paints(gymnasium.Env):
    """Two factors, five steps; draws a small picture of odd size into memory of its own."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 7}  # noqa: RUF012
    observation_space = Box(-1, 1, (2,))
    action_space = MultiDiscrete([3, 2], start=[1, 0])

    def __init__(self, render_mode=None):
        self.render_mode, self.canvas = render_mode, np.zeros((51, 33, 3), np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.canvas[:] = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.canvas += 1
        return np.zeros(2, np.float32), 0.5, False, False, {}

    def render(self):
        return self.canvas


class Ends(Paints):
    """Over after two steps."""

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return super().reset(seed=seed)

    def step(self, action):
        self.steps += 1
        observation, reward, *_ = super().step(action)
        return observation, reward, self.steps == 2, False, {}


class Blind(Paints):
    metadata = {"render_modes": ["human"]}  # noqa: RUF012


class Talks(Paints):
    def render(self):
        return "a picture"


for each in (Paints, Ends, Blind, Talks):
    if f"watch/{each.__name__}-v0" not in gymnasium.registry:
        gymnasium.register(
            f"watch/{each.__name__}-v0", each, max_episode_steps=5, disable_env_checker=True
        )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of each environment, by its name."""
    folder = tmp_path_factory.mktemp("watch")
    made = {}
    for name, agent in (
        ("CartPole-v1", "actor-critic"),
        ("FrozenLake-v1", "reinforce"),
        ("watch/Paints-v0", "reinforce-learned"),
        ("watch/Blind-v0", "actor-critic"),
        ("watch/Talks-v0", "actor-critic"),
    ):
        made[name] = rlgrad.train(
            name, agent, seeds=2, total_timesteps=1, eval_episodes=1, quiet=True,
            log_dir=str(folder),
        )  # fmt: skip
    return made


def watch(run, *arguments: str) -> int:
    return main(["watch", str(run.path), "--log-dir", str(run.path.parents[2]), *arguments])


def frames(path: Path) -> tuple[list[np.ndarray], dict[str, str]]:
    """All frames of a video as they were written, and what its header says."""
    command = (ffmpeg.get_ffmpeg_exe(), "-i", path, "-fps_mode", "passthrough")
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    done = subprocess.run([*command, *raw], capture_output=True, check=True)
    size = r"(?P<width>\d+)x(?P<height>\d+)"
    form = rf"Video: h264 .*?, (?P<pixels>\w+)\(.*?, {size}.*, (?P<fps>[\d.]+) fps"
    about = re.search(form, done.stderr.decode()).groupdict()
    shape = (-1, int(about["height"]), int(about["width"]), 3)
    return list(np.frombuffer(done.stdout, np.uint8).reshape(shape)), about


def moments(run, episodes=1, seed=None, deterministic=False, env_seed=0) -> list[Moment]:
    env = drawn_environment(run.env_id, run.env_kwargs, run.config.max_episode_steps)
    policy = load_policy(run, seed)
    agent = Agent(policy, env.observation_space, env.action_space, env_seed)
    found = list(play(env, agent, value_of(policy), episodes, env_seed, deterministic))
    env.close()
    return found


def test_a_video_has_every_state_once_and_the_panel(runs, tmp_path, capsys):
    run, path = runs["CartPole-v1"], tmp_path / "new" / "out.mp4"
    assert watch(run, "--episodes", "2", "--record", str(path)) == 0
    played = moments(run, 2)
    shown, about = frames(path)
    ends = sum(bool(moment.ended) for moment in played)
    assert ends == 2
    assert len(shown) == len(played) + ends * 49  # the last state stays for a second
    assert about["fps"] == "50"
    assert shown[0].shape == (400, 600 + WIDTH, 3)
    assert about["pixels"] == "yuv420p"  # what browsers and players take
    panel = Panel(run.env_id, "", [["left", "right"]], 2)
    index = 0
    for moment in played:  # in their order; coding loses a little, another state is far off
        expected = panel.beside(moment)[:, :600].astype(int)
        assert np.abs(shown[index][:, :600].astype(int) - expected).mean() < 2.0
        index += 50 if moment.ended else 1
    assert np.abs(shown[0][:, -5:].astype(int) - GROUND).max() < 12
    assert {path.name} == {each.name for each in path.parent.iterdir()}
    said = capsys.readouterr().out.splitlines()
    last = [moment for moment in played if moment.ended]
    assert said[0] == f"episode 1: return {last[0].total:g}, {last[0].step} steps, terminated"
    assert said[2] == f"wrote {path}: {len(shown)} frames, 50 per second"


def test_a_toy_text_environment_as_gif_and_as_pictures(runs, tmp_path):
    run = runs["FrozenLake-v1"]
    assert watch(run, "--episodes", "1", "--record", str(tmp_path / "out.gif")) == 0
    played = moments(run)
    with Image.open(tmp_path / "out.gif") as gif:
        assert gif.size == (512 + WIDTH, 512)
        assert gif.info["loop"] == 0
        total = 0
        for i in range(gif.n_frames):  # equal frames in a row are one that stays longer
            gif.seek(i)
            total += gif.info["duration"]
    assert total == 250 * (len(played) + 3)
    assert watch(run, "--episodes", "1", "--record", str(tmp_path / "out")) == 0
    files = sorted((tmp_path / "out").iterdir())
    assert [each.name for each in files] == [f"frame-{i + 1:06d}.png" for i in range(len(played))]
    for moment, file in zip(played, files, strict=True):
        with Image.open(file) as image:
            left = np.asarray(image)[:, :512]
        assert np.array_equal(left, magnified(moment.picture))


def test_the_first_episode_is_the_evaluations(runs):
    # Same start and same argmax: the first lane of an evaluation is the first episode to watch.
    run = runs["CartPole-v1"]
    (end,) = (m for m in moments(run, seed=1, deterministic=True, env_seed=7) if m.ended)
    env = gymnasium.make("CartPole-v1")
    agent = rlgrad.load(run, 1)
    observation, _ = env.reset(seed=derive(7, Purpose.EVALUATE, 1, 0))
    total, over = 0.0, False
    while not over:
        action, _ = agent.predict(observation, deterministic=True)
        observation, reward, terminated, truncated, _ = env.step(int(action))
        total, over = total + float(reward), terminated or truncated
    assert end.total == total
    scores = evaluate(load_policy(run, 1), "CartPole-v1", 7, 1)
    assert scores is not None


def test_a_moment_is_what_the_policy_thinks(runs):
    run = runs["CartPole-v1"]
    first, *rest = moments(run)
    agent, policy = rlgrad.load(run), load_policy(run)
    env = gymnasium.make("CartPole-v1")
    observation, _ = env.reset(seed=derive(0, Purpose.EVALUATE, 1, 0))
    assert np.array_equal(first.probabilities, agent.action_probability(observation))
    value = value_of(policy)
    assert value is not None
    assert first.values == (value(observation),)
    assert [len(m.values) for m in rest] == list(range(2, len(rest) + 2))
    assert [m.step for m in rest] == list(range(1, len(rest) + 1))
    assert rest[-1].ended
    assert rest[-1].chosen == ()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("agent", "has"),
    [("reinforce", False), ("reinforce-learned", True), ("actor-critic", True)],
)
def test_values_are_in_units_of_return(agent, has, tmp_path):
    run = rlgrad.train(
        "watch/Ends-v0", agent, total_timesteps=3000, eval_episodes=1, quiet=True,
        log_dir=str(tmp_path), gamma=1.0, critic_learning_rate=0.05,
    )  # fmt: skip
    value = value_of(load_policy(run))
    assert (value is not None) == has
    if value is not None:
        # The observation tells nothing, so the value is the mean over both steps, 1.0 and 0.5.
        assert value(np.zeros(2, np.float32)) == pytest.approx(0.75, abs=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["sb3-ppo", "sb3-a2c"])
def test_a_peer_is_watched_too(agent, tmp_path):
    run = rlgrad.train(
        "CartPole-v1", agent, total_timesteps=16, num_envs=1, eval_episodes=1, quiet=True,
        log_dir=str(tmp_path),
    )  # fmt: skip
    policy = load_policy(run)
    first = moments(run)[0]
    observation, _ = gymnasium.make("CartPole-v1").reset(seed=derive(0, Purpose.EVALUATE, 1, 0))
    model = policy.algorithm.policy
    tensor, _ = model.obs_to_tensor(observation)
    assert first.values[0] == pytest.approx(model.predict_values(tensor).item())
    assert watch(run, "--episodes", "1", "--record", str(tmp_path / "out.gif")) == 0


def test_factors_start_where_the_space_says_and_small_pictures_grow(runs, tmp_path):
    run, path = runs["watch/Paints-v0"], tmp_path / "frames"
    assert watch(run, "--episodes", "1", "--record", str(path)) == 0
    files = sorted(path.iterdir())
    assert len(files) == 6
    greys = []
    for file in files:
        with Image.open(file) as image:
            assert image.size == (264 + WIDTH, 408)
            greys.append(image.getpixel((0, 0))[0])
    assert greys == [0, 1, 2, 3, 4, 5]  # copies, though the environment draws into one array
    env = drawn_environment(run.env_id, {}, 0)
    assert action_names(env) == [["1", "2", "3"], ["0", "1"]]
    assert all(m.probabilities.shape == (2, 3) for m in moments(run))
    assert all(m.probabilities[1, 2] == 0 for m in moments(run))


def test_without_overlay_the_picture_is_alone(runs, tmp_path):
    run, path = runs["watch/Paints-v0"], tmp_path / "out.mp4"
    assert watch(run, "--no-overlay", "--fps", "30", "--episodes", "1", "--record", str(path)) == 0
    shown, about = frames(path)
    assert about["fps"] == "30"
    assert shown[0].shape == (408, 264, 3)  # 51 x 33, eight times
    assert len(shown) == 6 + 29


def colours(frame: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((frame[:, -WIDTH:] == colour).all(-1).sum())


def test_the_panel_shows_probabilities_as_lengths():
    def drawn(p: float, **given: object) -> np.ndarray:
        moment = Moment(
            np.full((400, 600, 3), 255, np.uint8), 0, 3, 3.0,
            np.array([[p, 1 - p]], np.float32), **{"chosen": (0,), "values": (1.0,), **given},
        )  # fmt: skip
        return Panel("CartPole-v1", "", [["", ""]], 1).beside(moment)

    full, half = (colours(drawn(p), CHOSEN) for p in (1.0, 0.5))
    blank = colours(drawn(0.0), CHOSEN)
    assert (half - blank) / (full - blank) == pytest.approx(0.5, abs=0.1)
    assert not np.array_equal(drawn(0.5), drawn(0.5, chosen=(), ended="terminated"))
    assert not np.array_equal(drawn(0.5), drawn(0.5, values=()))


def test_the_action_taken_is_shown_however_improbable():
    p = np.full((1, 60), 1 / 59, np.float32)
    p[0, 41] = 0
    picture, names = np.zeros((210, 160, 3), np.uint8), [[str(a) for a in range(60)]]
    for chosen, marked in [((41,), True), ((), False), ((3,), True)]:
        moment = Moment(picture, 0, 0, 0.0, p, chosen, ())
        frame = Panel("", "", names, 1).beside(moment)
        assert bool(colours(frame, CHOSEN)) == marked


@pytest.mark.parametrize("sizes", [(18,), (60,), (3, 2), (9,) * 20], ids=str)
@pytest.mark.parametrize("height", [64, 210, 400, 900])
def test_any_number_of_actions_fits(sizes, height):
    A = max(sizes)
    p = np.zeros((len(sizes), A), np.float32)
    for d, size in enumerate(sizes):
        p[d, :size] = 1 / size
    picture = np.zeros((height, 160, 3), np.uint8)
    moment = Moment(picture, 0, 0, -1e6, p, (0,) * len(sizes), (0.5, 1.0) * 50)
    names = [[f"a rather long name {a}" for a in range(size)] for size in sizes]
    frame = Panel("a/VeryLongEnvironmentName-v12" * 3, "x" * 200, names, 1).beside(moment)
    assert frame.shape[0] >= 400
    assert frame.shape[0] % 2 == frame.shape[1] % 2 == 0
    edge = 8  # nothing runs over the edges
    assert (frame[:edge, -WIDTH:] == GROUND).all()
    assert (frame[-edge:, -WIDTH:] == GROUND).all()
    assert (frame[:, -edge:] == GROUND).all()


@pytest.mark.parametrize("fps", [1, 7, 30, 50, 144])
def test_a_video_loses_no_frame_at_any_rate(fps, tmp_path):
    # Gymnasium's recorder alone loses the last one of six at 30 frames per second.
    for count in (1, 6, CLIP + 7):
        path = tmp_path / f"{count}.mp4"
        with kind_of(str(path))(path, fps) as video:
            for i in range(count):
                video.show(np.full((16, 16, 3), 60 + i, np.uint8))
        shown, about = frames(path)
        levels = [int(x[8, 8, 0]) - 60 for x in shown]
        assert levels == pytest.approx(range(count), abs=3)
        assert float(about["fps"]) == pytest.approx(fps, rel=0.005)


REFUSED = {
    "ending": (["--record", "out.avi"], "got --record 'out.avi'; expected a name that ends in"),
    "episodes": (["--episodes", "0"], "got --episodes 0; expected 1 to 10,000"),
    "fps": (["--fps", "0"], "got --fps 0; expected 1 to 240"),
    "seed": (["--seed", "9", "--record", "o.gif"], "has no seed 9; it has 0, 1"),
    "both": (["--best", "--step", "3"], "got --best and --step; expected one of them"),
    "step": (["--step", "3", "--record", "o.gif"], "no checkpoint at 3 env steps"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_one_line(name, runs, tmp_path, monkeypatch, capsys):
    arguments, said = REFUSED[name]
    monkeypatch.chdir(tmp_path)
    assert watch(runs["CartPole-v1"], *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("watch/Blind-v0", "draws no pictures: its render modes are human, and watching needs"),
        ("watch/Talks-v0", "drew <class 'str'>; expected an array"),
    ],
)
def test_an_environment_that_cannot_be_drawn(name, said, runs, tmp_path, capsys):
    assert watch(runs[name], "--record", str(tmp_path / "out.mp4")) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_no_display(runs, monkeypatch, capsys):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert watch(runs["CartPole-v1"]) == 2
    assert "there is no display for a window" in capsys.readouterr().err


def test_a_missing_encoder_is_named(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "moviepy", None)
    assert watch(runs["CartPole-v1"], "--record", str(tmp_path / "out.mp4")) == 2
    assert "moviepy is not installed: pip install 'rlgrad[watch]'" in capsys.readouterr().err


def test_a_missing_pygame_is_named(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pygame", None)
    assert watch(runs["FrozenLake-v1"], "--record", str(tmp_path / "out.gif")) == 2
    assert "pip install 'rlgrad[watch]'" in capsys.readouterr().err


def process(run, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rlgrad", "watch", str(run.path), *arguments]
    env = {**os.environ, **environment}
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_window_opens_and_closes(runs):
    # SDL's own driver without a screen: all but the glass is real.
    started = process(runs["CartPole-v1"], "--episodes", "1", SDL_VIDEODRIVER="dummy")
    out, err = started.communicate(timeout=120)
    assert (started.returncode, err) == (0, "")
    assert out.startswith("episode 1: return ")
    assert len(out.splitlines()) == 1


def test_ctrl_c_leaves_nothing_behind(runs, tmp_path):
    path = tmp_path / "out.mp4"
    started = process(runs["CartPole-v1"], "--episodes", "5000", "--record", str(path))
    deadline = time.monotonic() + 100
    while not list(tmp_path.glob(".out.mp4.*/clip-episode-0.mp4")):
        assert started.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=60)
    assert started.returncode == 130
    assert err.splitlines()[-1] == "rlgrad: interrupted"
    assert not list(tmp_path.iterdir())
