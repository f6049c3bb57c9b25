"""Worker processes that change no bit and cannot be lost quietly, the choice, and EnvPool."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.error import ClosedEnvironmentError
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import rlgrad
from rlgrad import choosing, hanging, vectorising
from rlgrad.cards import resolve
from rlgrad.chunked import ChunkedVectorEnv
from rlgrad.clock import Clock
from rlgrad.comparison.records import identity
from rlgrad.errors import UsageError
from rlgrad.lanes import Lanes
from rlgrad.loading import load_learner
from rlgrad.make import make_lane, make_training
from rlgrad.pooled import PooledVectorEnv
from rlgrad.rows import LaneError
from rlgrad.seeded import Place, SeededEpisodes
from rlgrad.vectorising import measure

torch.set_num_threads(1)
# Python 3.12 and later warn of fork beside threads; the workers only step environments.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
has_envpool = pytest.mark.skipif(not importlib.util.find_spec("envpool"), reason="needs envpool")


def cartpole(limit=9):
    return gymnasium.make("CartPole-v1", max_episode_steps=limit)


def seeded():
    return SeededEpisodes(cartpole(50))


class Trouble(gymnasium.Env):
    """Does something wrong at its third step; ``what`` says what."""

    observation_space, action_space = Box(-1, 1, (1,)), Discrete(2)

    def __init__(self, what="", seconds=0.0):
        self.what, self.seconds, self.time = what, seconds, 0
        if what == "making":
            raise OSError("no such thing")

    def reset(self, *, seed=None, options=None):
        if self.what == "reset":
            raise OSError("no\nfield")
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.time += 1
        time.sleep(self.seconds)
        x, reward, over = np.zeros(1, np.float32), 1.0, False
        if self.what == "late" and self.time == 10:
            raise TimeoutError("late")
        if self.time == 3:
            if self.what == "step":
                raise ZeroDivisionError("the lander has\nno mass")
            if self.what == "hanging":
                time.sleep(3600)
            x = {"shape": np.zeros(3, np.float32), "type": x + 1j, "object": ["one"]}.get(
                self.what, x
            )
            reward = None if self.what == "reward" else reward
            over = "no" if self.what == "flag" else over
        return x, reward, over, False, {}


def trouble(what="", seconds=0.0):
    return SeededEpisodes(Trouble(what, seconds))


@pytest.mark.parametrize(("lanes", "count"), [(5, 0), (5, 2), (3, 3), (2, 8)])
def test_chunks_change_no_bit(lanes, count):
    sync = SyncVectorEnv([seeded] * lanes, autoreset_mode=AutoresetMode.SAME_STEP)
    chunked = ChunkedVectorEnv([seeded] * lanes, count)
    assert not count or len(chunked.crew.processes) == min(lanes, count)
    rng, ended = np.random.default_rng(0), 0
    for seed in (list(range(2**62, 2**62 + lanes)), 7, None):
        (x, _), (y, info) = sync.reset(seed=seed), chunked.reset(seed=seed)
        if seed is not None:  # else episodes go on from the numbers that both have reached
            np.testing.assert_array_equal(x, y)
        assert info == {}
        for _ in range(60):
            action = rng.integers(2, size=lanes)
            *a, first = sync.step(action)
            *b, second = chunked.step(action)
            for one, other in zip(a, b, strict=True):
                np.testing.assert_array_equal(one, other)
                assert one.dtype == other.dtype
            assert ("final_obs" in first) == ("final_obs" in second)
            for lane in np.flatnonzero(a[2] | a[3]):
                ended += 1
                np.testing.assert_array_equal(first["final_obs"][lane], second["final_obs"][lane])
    assert ended > 10
    sync.close()
    chunked.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_chunks_keep_what_a_vector_environment_promises(workers):
    env = ChunkedVectorEnv([cartpole] * 3, workers)
    report = rlgrad.check_vector_env(env, steps=40, max_episode_steps=9, single=cartpole)
    assert (report.ok, report.notes) == (True, ())
    env.close()
    assert not workers or not any(process.is_alive() for process in env.crew.processes)
    with pytest.raises(ValueError, match="got 2 seeds for 1 lanes"):
        ChunkedVectorEnv([cartpole], 1).reset(seed=[1, 2])


@pytest.mark.slow
def test_workers_that_are_spawned():
    """As where there is no fork; lanes are sent to them."""
    card = rlgrad.cards.EnvCard("CartPole-v1")
    lanes = [make_lane(card, 0)] * 2
    x, y = (ChunkedVectorEnv(lanes, 2, start).reset(seed=3)[0] for start in ("fork", "spawn"))
    np.testing.assert_array_equal(x, y)


def test_a_killed_worker_is_named_and_the_others_end():
    env = ChunkedVectorEnv([cartpole] * 5, workers=2)
    env.reset(seed=0)
    pid = env.crew.processes[1].pid
    os.kill(pid, signal.SIGKILL)
    words = (
        rf"lost worker 1 \(process {pid}\), killed by SIGKILL, in environment 2 to environment 4$"
    )
    with pytest.raises(LaneError, match=words):
        env.step(np.zeros(5, dtype=np.int64))
    assert not any(process.is_alive() for process in env.crew.processes)
    with pytest.raises(ClosedEnvironmentError):
        env.step(np.zeros(5, dtype=np.int64))


HERE = rf"\({__file__}, line \d+\)"
STEP_3 = r"in environment 2, at step 3 of the episode that reset\(seed=\d+\) began$"
FAULTS = {
    "making": rf"raised OSError: no such thing {HERE} in environment 2, when it was made$",
    "reset": rf"raised OSError: no field {HERE} in environment 2, at reset\(seed=\d+\)$",
    "step": rf"raised ZeroDivisionError: the lander has no mass {HERE} {STEP_3}",
    "shape": rf"gave an observation of shape \(3,\) and type float32; expected \(1,\) .* {STEP_3}",
    "type": rf"gave an observation of shape \(1,\) and type complex64; .* float32 {STEP_3}",
    "object": rf"gave an observation of shape \(1,\) and type <U3; .* float32 {STEP_3}",
    "reward": rf"gave the reward None; expected a number {STEP_3}",
    "flag": rf"gave terminated = 'no'; expected a bool {STEP_3}",
}


def played(lanes, workers, seeds=(7, 9, 2**40)):
    """Three steps of three lanes of as many seeds."""
    lanes = Lanes(ChunkedVectorEnv([*lanes], workers))
    try:
        lanes.reset(seeds)
        for _ in range(3):
            lanes.step(np.zeros((3, 1), dtype=np.int64))
    finally:
        lanes.close()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("what", FAULTS)
def test_what_an_environment_does_wrong_is_told_with_lane_seed_and_step(what, workers):
    lanes = [trouble, trouble, functools.partial(trouble, what)]
    with pytest.raises(LaneError, match=f"(?m)^Trouble {FAULTS[what]}") as caught:
        played(lanes, workers)
    raised = what in ("making", "reset", "step")
    assert ("in step\n" in caught.value.details) == (what == "step")
    assert bool(caught.value.details) == raised


def test_a_lane_is_told_as_its_seeds():
    lanes = Lanes(ChunkedVectorEnv([trouble, functools.partial(trouble, "step")] * 2, 0), [5, 8])
    lanes.reset(range(4))
    for _ in range(2):
        lanes.step(np.zeros((4, 1), dtype=np.int64))
    with pytest.raises(LaneError, match="in environment 1 of seed 5, at step 3 of"):
        lanes.step(np.zeros((4, 1), dtype=np.int64))


MODULE = """
import gymnasium, test_vectorising
gymnasium.register("Broken-v0", entry_point="test_vectorising:Broken", max_episode_steps=9)
"""


class Broken(Trouble):
    """Raises at the third step of its second episode."""

    def reset(self, *, seed=None, options=None):
        self.what = "step" if self.time else ""
        self.time = 0
        return super().reset(seed=seed, options=options)


@pytest.mark.parametrize("vec", ["sync", "async"])
def test_the_command_line_shows_one_line_and_keeps_the_traceback(tmp_path, vec):
    (tmp_path / "broken_module.py").write_text(MODULE)
    command = [sys.executable, "-m", "rlgrad", "train", "broken_module:Broken-v0", "--seeds", "4-5"]
    flags = f"--agent actor-critic --vec {vec} --num-envs 1 --num-steps 8 --quiet -n 999".split()
    paths = [str(Path(rlgrad.__file__).parent.parent), str(Path(__file__).parent), str(tmp_path)]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [*command, *flags], capture_output=True, text=True, cwd=tmp_path, env=environ, check=False
    )
    assert done.returncode == 2, done.stderr
    line = done.stderr.splitlines()[-1]
    words = "Broken-v0 raised ZeroDivisionError: the lander has no mass"
    assert words in line
    assert "in environment 0 of seed 4, at step 3 of the episode that reset(seed=" in line
    assert "Traceback" not in done.stderr
    (kept,) = (tmp_path / "runs").glob("*/actor-critic/*/environment-error.txt")
    assert f"its traceback is in {kept.relative_to(tmp_path)}" in line
    assert 'raise ZeroDivisionError("the lander has\\nno mass")' in kept.read_text()


def test_seconds_of_workers_count():
    """A second spent in an environment is one of training, whichever process spends it."""
    spent = {}
    for workers in (0, 2):
        env = ChunkedVectorEnv([functools.partial(gymnasium.make, "Acrobot-v1")] * 4, workers)
        lanes = Lanes(env)
        lanes.reset([1, 2, 3, 4])
        clock = Clock(beside=lanes.cpu_seconds)
        with clock:
            for _ in range(400):
                lanes.step(np.zeros((4, 1), dtype=np.int64))
        spent[workers] = clock.read().cpu, lanes.cpu_seconds()
        lanes.close()
    assert spent[0][1] == 0
    assert spent[2][1] > spent[0][0] / 10


@pytest.mark.parametrize("workers", [0, 2])
def test_an_environment_that_hangs_is_given_up(monkeypatch, workers):
    monkeypatch.setenv("RLGRAD_STEP_TIMEOUT", "0.5")
    lanes = [trouble, trouble, functools.partial(trouble, "hanging")]
    words = r"gave no answer for 0.5 s \(RLGRAD_STEP_TIMEOUT sets how many are waited\)"
    with pytest.raises(LaneError, match=f"^Trouble {words} {STEP_3}"):
        played(lanes, workers)


def test_many_slow_steps_are_no_hanging(monkeypatch):
    """Each lane's step takes half of what is waited for: a worker's message takes longer."""
    monkeypatch.setenv("RLGRAD_STEP_TIMEOUT", "2")
    played([functools.partial(trouble, seconds=0.7)] * 3, workers=1)


@pytest.mark.parametrize("workers", [0, 1])
def test_playing_an_episode_again_is_no_hanging(monkeypatch, workers):
    """It takes three times as long as one step may take, and errors know where it ended."""
    monkeypatch.setenv("RLGRAD_STEP_TIMEOUT", "1.5")
    env = ChunkedVectorEnv([functools.partial(trouble, "late", 0.5)], workers)
    env.reset(seed=5)
    wanted = Place(5, 1, np.zeros((9, 1), np.int64), 9.0, np.zeros(1, np.float32))
    env.set_attr("place_to_take", [wanted])
    ((_, same),) = env.call("take_place")
    assert same
    with pytest.raises(
        LaneError, match=r"TimeoutError: late .* in environment 0, at step 10 of the episode that"
    ):
        env.step(np.zeros(1, np.int64))


def test_a_wait_is_counted_in_looks():
    wait = hanging.Wait(4.0)
    assert [wait.over(now) for now in (1, 1, 1, 1, 1)] == [False] * 4 + [True]
    assert [wait.over(now) for now in (None, None, 2, 3, 3, 3, 3, 3)] == [False] * 7 + [True]


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan"])
def test_a_wait_that_is_no_time_is_refused(monkeypatch, text):
    monkeypatch.setenv("RLGRAD_STEP_TIMEOUT", text)
    with pytest.raises(UsageError, match="expected seconds above 0"):
        ChunkedVectorEnv([trouble], 0)


def running(pid):
    """Whether a process is there, and not only its entry."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("busy", [False, True])
def test_workers_die_with_a_killed_parent(busy):
    """Even in the middle of a step that would take an hour."""
    lines = [
        "import functools, sys, threading, numpy as np",
        f"sys.path[:0] = [{str(Path(__file__).parent)!r}]",
        "from test_vectorising import ChunkedVectorEnv, Trouble",
        f"lane = functools.partial(Trouble, seconds={3600.0 if busy else 0.0})",
        "env = ChunkedVectorEnv([lane] * 4, workers=2)",
        "env.reset()",
        "print(*(each.pid for each in env.crew.processes), flush=True)",
        f"env.step(np.zeros(4, dtype=np.int64)) if {busy} else sys.stdin.read()",
    ]
    parent = subprocess.Popen(
        [sys.executable, "-c", "\n".join(lines)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(rlgrad.__file__).parent.parent,
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    assert all(map(running, pids))
    time.sleep(0.3)
    parent.kill()
    parent.communicate()
    for _ in range(600):  # a minute, on a machine that may be busy
        if not any(map(running, pids)):
            break
        time.sleep(0.1)
    assert not any(map(running, pids))


def test_auto_measures_what_is_worth_sharing(monkeypatch):
    monkeypatch.setattr(vectorising, "cores", lambda: 4)
    monkeypatch.setattr(vectorising, "FORKS", False)
    assert measure(Trouble, 8) == ("sync", "")
    monkeypatch.setattr(vectorising, "FORKS", True)
    engine, why = measure(functools.partial(Trouble, seconds=0.005), 8)
    assert engine == "async"
    assert "--vec auto took async: 8 environments take" in why
    assert why.endswith("ms in 4 workers")
    monkeypatch.setattr(vectorising, "WORTH", 1e9)
    engine, why = measure(Trouble, 2)
    assert engine == "sync"
    assert why.endswith("too little to share out")
    monkeypatch.setattr(vectorising, "cores", lambda: 1)
    assert measure(Trouble, 8) == ("sync", "")


def test_auto_stays_in_this_process_where_workers_fail(monkeypatch):
    monkeypatch.setattr(vectorising, "cores", lambda: 2)
    monkeypatch.setattr(vectorising, "WORTH", 0.0)
    here = os.getpid()

    def lane():
        if os.getpid() != here:
            raise RuntimeError("one process only")
        return Trouble()

    engine, why = measure(lane, 4)
    assert engine == "sync"
    assert "in workers the environment fails: Trouble raised" in why
    assert "RuntimeError: one process only" in why


def trained(tmp_path, vec, **flags):
    options = {"seeds": 2, "eval_episodes": 1, "quiet": True, "log_dir": str(tmp_path / vec)}
    size = {"total_timesteps": 256, "num_envs": 2, "num_steps": 16, "max_episode_steps": 40}
    return rlgrad.train("CartPole-v1", "actor-critic", vec=vec, **options, **size, **flags)


def test_a_run_has_the_same_bits_in_one_process_and_in_workers(tmp_path):
    sync, chunked = trained(tmp_path, "sync"), trained(tmp_path, "async")
    for seed in (0, 1):
        states = [load_learner(run, seed)[0].state_dict() for run in (sync, chunked)]
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    first, second = (
        [{tag: x for tag, x in row.items() if not tag.startswith("time/")} for row in run.metrics()]
        for run in (sync, chunked)
    )
    assert first == second


def chosen(run):
    """(What the run's card says, what was said at its start)."""
    card = tomllib.loads((run.path / "card.toml").read_text())
    notes = json.loads((run.path / "run.json").read_text())["notes"]
    return card["environment"]["vec"], [note for note in notes if "--vec" in note]


SIZE = {"total_timesteps": 64, "num_envs": 2, "num_steps": 16, "anneal_steps": 200}


def begun(log_dir, env="FrozenLake-v1", **options):
    options = {**SIZE, "eval_episodes": 1, "quiet": True, "log_dir": str(log_dir), **options}
    return rlgrad.train(env, "actor-critic", seeds=[1000], **options)


def test_the_choice_stands_in_the_card_and_is_kept(tmp_path, monkeypatch):
    """A resumed run is not measured again, and a finished one stands for both engines."""
    monkeypatch.setattr(vectorising, "cores", lambda: 2)
    monkeypatch.setattr(vectorising, "WORTH", 0.0)
    monkeypatch.setattr(vectorising, "GAIN", 1e9)  # whatever is measured: async
    run = begun(tmp_path)
    vec, (note,) = chosen(run)
    assert vec == "async"
    assert note.startswith("--vec auto took async: 2 environments take")
    monkeypatch.setattr(vectorising, "WORTH", 1e9)  # from here on: sync

    def measured(*_):
        raise AssertionError("measured again")

    with monkeypatch.context() as patch:
        patch.setattr(choosing, "measure", measured)
        longer = rlgrad.resume(run, 96, quiet=True)
        assert chosen(longer)[0] == "async"
        straight = begun(tmp_path / "b", vec="sync", total_timesteps=96)
        states = [load_learner(each, 1000)[0].state_dict() for each in (longer, straight)]
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
        assert chosen(rlgrad.resume(longer, 128, quiet=True, vec="sync"))[0] == "sync"
        with pytest.raises(UsageError, match="got --vec envpool, and sync steps"):
            rlgrad.resume(longer, 160, quiet=True, vec="envpool")
    assert chosen(begun(tmp_path / "c"))[0] == "sync"


@pytest.mark.parametrize(
    ("env", "vec", "other"),
    [
        ("FrozenLake-v1", "sync", None),
        ("FrozenLake-v1", "async", None),
        ("FrozenLake-v1", "envpool", "envpool"),
        ("CartPole-v1", "simulator", None),
        ("CartPole-v1", "sync", "gymnasium"),
        ("CartPole-v1", "async", "gymnasium"),
    ],
)
def test_a_run_stands_for_all_engines_with_its_bits_alone(env, vec, other):
    """``compare`` trains again what another engine would have trained otherwise."""
    asked = resolve(env, "actor-critic")
    card, expected = identity(dataclasses.replace(asked, vec=vec)), identity(asked)
    assert card["environment"].pop("vec", None) == other
    assert card == expected
    assert "vec" not in expected["environment"]


@has_envpool
def test_envpool_with_seeds_that_count():
    env = PooledVectorEnv("CartPole-v1", 3, max_episode_steps=9)
    report = rlgrad.check_vector_env(env, steps=40)
    assert (report.ok, report.notes) == (True, ())
    first, _ = env.reset(seed=[5, 2**62, 7])
    other, _ = env.reset(seed=[2**62, 5, 7])
    np.testing.assert_array_equal(first[[1, 0, 2]], other)  # a lane depends on its seed alone
    env.close()


@has_envpool
def test_training_on_envpool(tmp_path):
    one, again = trained(tmp_path / "a", "envpool"), trained(tmp_path / "b", "envpool")
    assert [each["status"] for each in one.result()["seeds"]] == ["finished"] * 2
    states = [load_learner(run, 1)[0].state_dict() for run in (one, again)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@has_envpool
def test_refusals_of_envpool():
    card = functools.partial(rlgrad.cards.EnvCard, summary="", path=None)
    with pytest.raises(UsageError, match="EnvPool has no environment 'ValueProbe-v0'"):
        make_training(card("rlgrad/ValueProbe-v0"), 2, vec="envpool")
    with pytest.raises(UsageError, match="takes no --env-kwargs"):
        make_training(card("CartPole-v1", kwargs={"a": 1}), 2, vec="envpool")
    with pytest.raises(UsageError, match=r"observes Discrete\(16\).* use --vec auto"):
        make_training(card("FrozenLake-v1"), 2, vec="envpool")


def test_envpool_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(UsageError, match="needs EnvPool; run: pip install envpool"):
        PooledVectorEnv("CartPole-v1", 2)
