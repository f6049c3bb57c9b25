"""A run that ends early and goes on is, bit for bit, the run that did not."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from kept_runs import Dying, KilledError, started
from tensorboard_server import serving

import rlgrad
from rlgrad import cards, creating, store, training
from rlgrad.cli import main
from rlgrad.errors import UsageError
from rlgrad.options import Options
from rlgrad.resuming import restart

torch.set_num_threads(1)
ROOT = Path(__file__).parent.parent
AGENTS = sorted(name for name in cards.find("agents") if not cards.agent_card(name).algorithm)
SMALL = {"num_envs": 2, "num_steps": 16, "hidden": (8,), "max_episode_steps": 23}
WALL_CLOCK = ("time/",)
SIMULATED = ("CartPole-v1",)


class Walk(gymnasium.Env):
    """A random walk with noise of its own, of any spaces; episodes end by chance."""

    def __init__(self, space=None, actions=None, hidden=0.0, bad=0.0):
        self.observation_space = space or Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space, self.hidden = actions or Discrete(3, start=1), hidden
        self.bad = bad

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
        reward = -abs(self.x) if self.np_random.random() >= self.bad else float("nan")
        return self._observe(), reward, bool(self.np_random.random() < 0.05), False, {}


ENVS = {
    "Walk": {},
    "Factors": {
        "space": Dict({"a": Discrete(2), "b": Box(-np.inf, np.inf, (1,))}),
        "actions": MultiDiscrete([2, 3]),
    },
    "Hidden": {"hidden": 1.0},
    "Bad": {"bad": 0.005},
    "Short": {"bad": 0.0002},
}
LIMIT, SOLVED = {"Short": 3}, {"Short": -2.3}
for name, kwargs in ENVS.items():
    if f"resume/{name}-v0" not in gymnasium.registry:
        gymnasium.register(
            f"resume/{name}-v0", Walk, kwargs=kwargs, disable_env_checker=True,
            max_episode_steps=LIMIT.get(name, 23), reward_threshold=SOLVED.get(name),
        )  # fmt: skip


@pytest.fixture
def begin(tmp_path):
    """A session of a small run below ``tmp_path``."""

    def begin(env, agent, seeds=(1000, 1001), total=400, display=None, **options):
        flags = {k: options.pop(k) for k in list(options) if k not in asdict(Options())}
        resolved = cards.resolve(env, agent, None, {**SMALL, "total_timesteps": total, **flags})
        # Which engine is the faster is not measured: that takes longer than the training.
        vec = {} if env in SIMULATED else {"vec": "sync"}
        chosen = {"eval_episodes": 2, "quiet": True, "log_dir": str(tmp_path), **vec, **options}
        return training.start(resolved, list(seeds), Options(**chosen), display)

    return begin


def killed(session):
    """The run of a session that dies; whoever began it chose when."""
    with pytest.raises(KilledError):
        session.go()
    return session.run


def whole(run):
    """All that a run leaves, without its wall clock."""
    tensors, counters = store.load_checkpoint(run.checkpoints()[-1])
    rows = [{k: v for k, v in row.items() if not k.startswith(WALL_CLOCK)} for row in run.metrics()]
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


OFTEN = {"save_freq": 64, "log_freq": 1}


@pytest.mark.parametrize("agent", AGENTS)
def test_every_agent_goes_on_bit_for_bit(begin, agent):
    """On a simulator, and on Gymnasium's environments with factors and a Dict observation."""
    for env, total in (("CartPole-v1", 160), ("resume/Factors-v0", 160)):
        straight = begin(env, agent, total=total, **OFTEN)
        straight.go()
        run = killed(begin(env, agent, total=total, display=Dying(3), **OFTEN))
        assert not run.result()
        assert rlgrad.resume(run).path == run.path
        same(straight.run, run)
        assert json.loads((run.path / "run.json").read_text())["exact"] is True


@pytest.mark.parametrize("moment", [1, 2, 5, 6])
def test_evaluations_are_neither_lost_nor_repeated(begin, monkeypatch, moment):
    """The kill comes before the m-th evaluation's row; the checkpoint says what is due."""
    options = {"total": 288, "eval_freq": 96, **OFTEN}
    straight = begin("resume/Walk-v0", "actor-critic", **options)
    straight.go()
    session = begin("resume/Walk-v0", "actor-critic", **options)
    log, rows = session.reporter.row, []

    def dying(i, numbers):
        rows.extend(tag for tag in numbers if tag == "eval/mean_reward")
        if len(rows) == moment:
            raise KilledError
        log(i, numbers)

    monkeypatch.setattr(session.reporter, "row", dying)
    run = rlgrad.resume(killed(session))
    same(straight.run, run)
    evaluated = [(row["step"], row["seed"]) for row in run.metrics() if "eval/mean_reward" in row]
    assert evaluated == [(step, seed) for step in (96, 192, 288) for seed in (1000, 1001)]


def test_a_kill_before_the_first_checkpoint_loses_nothing(begin):
    straight = begin("CartPole-v1", "relax", total=160, log_freq=1)
    straight.go()
    run = killed(begin("CartPole-v1", "relax", total=160, log_freq=1, display=Dying(3)))
    assert run.metrics()
    assert not run.checkpoints()
    same(straight.run, rlgrad.resume(run))


def test_what_a_kill_leaves_half_written_is_cut_away(begin):
    straight = begin("CartPole-v1", "actor-critic", **OFTEN)
    straight.go()
    run = killed(begin("CartPole-v1", "actor-critic", display=Dying(6), **OFTEN))
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"seed": 1000, "step": 99999, "rollout/ep_rew')
    half = run.path / "checkpoints" / ".step-000000009999.safetensors.4321"
    half.write_bytes(b"half")
    same(straight.run, rlgrad.resume(run))
    assert not half.exists()
    kept = [path.name for path in run.checkpoints()]
    assert kept == [path.name for path in straight.run.checkpoints()]
    assert len(kept) == 7


@pytest.mark.parametrize("byte", [4, 100, -7])
def test_a_damaged_checkpoint_is_left_out_and_that_is_said(begin, capsys, byte):
    straight = begin("CartPole-v1", "actor-critic", **OFTEN)
    straight.go()
    run = killed(begin("CartPole-v1", "actor-critic", display=Dying(6), **OFTEN))
    *_, good, newest = run.checkpoints()
    data = bytearray(newest.read_bytes())
    data[byte] ^= 8
    newest.write_bytes(data)
    with pytest.warns(UserWarning, match=f"{newest.name}.*cannot be read"):
        rlgrad.load(run)
    same(straight.run, rlgrad.resume(run, quiet=False))
    said = capsys.readouterr().err
    assert f"left out {newest.name}" in said
    assert f"at {int(good.stem.removeprefix('step-'))} of" in said
    for path in run.checkpoints():
        path.write_bytes(b"")
    with pytest.raises(UsageError, match="no checkpoint that is whole"):
        rlgrad.resume(run)


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("metrics.jsonl", b'"seed": 1000', b'"seed": 7777', "line 1 is of seed 7777"),
        ("metrics.jsonl", b"}", b"]", "line 1: Expecting"),
        ("run.json", b'"options"', b'"opinions"', "run.json: cannot be read"),
        ("run.json", b'"save_freq": 64', b'"save_freq": -1', "save_freq = -1"),
    ],
)
def test_a_damaged_run_is_refused_and_left_as_it_is(begin, name, old, new, said):
    run = killed(begin("CartPole-v1", "actor-critic", display=Dying(4), **OFTEN))
    path = run.path / name
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))
    before = {each: each.stat().st_mtime_ns for each in run.path.rglob("*") if each.is_file()}
    with pytest.raises(UsageError, match=said):
        rlgrad.resume(run)
    (run.path / "lock").unlink(missing_ok=True)
    after = {each: each.stat().st_mtime_ns for each in run.path.rglob("*") if each.is_file()}
    assert after == before


@pytest.mark.parametrize("agent", ["actor-critic", "reinforce"])
def test_an_environment_that_forgets_is_said_and_marked(begin, capsys, agent):
    """Agents that learn from whole episodes reset all lanes anyway, but trust them no more."""
    run = killed(begin("resume/Hidden-v0", agent, display=Dying(6), **OFTEN))
    rlgrad.resume(run, quiet=False)
    assert "in 4 of 4 environments, which start new episodes" in capsys.readouterr().err
    assert run.result()["exact"] is False
    assert json.loads((run.path / "run.json").read_text())["exact"] is False
    if agent == "actor-critic":
        assert {seed["steps"] for seed in run.result()["seeds"]} == {416}
    # Episodes that were torn are not counted: none is longer than the limit.
    assert all(row.get("rollout/ep_len_mean", 0) <= 23 for row in run.metrics())


@pytest.mark.parametrize("agent", ["actor-critic", "reinforce"])
def test_an_engine_with_other_bits_is_refused(begin, agent):
    """A simulator's float32 is not Gymnasium's float64."""
    run = killed(begin("CartPole-v1", agent, display=Dying(4), **OFTEN))
    with pytest.raises(UsageError, match="got --vec sync, and simulator steps"):
        rlgrad.resume(run, vec="sync")


def test_workers_stand_where_one_process_stood(begin):
    straight = begin("resume/Factors-v0", "actor-critic", vec="sync", **OFTEN)
    straight.go()
    run = killed(begin("resume/Factors-v0", "actor-critic", vec="async", display=Dying(6), **OFTEN))
    same(straight.run, rlgrad.resume(run))


def test_seeds_that_failed_stay_failed(begin):
    options = {"seeds": range(1000, 1006), "total": 160, **OFTEN}
    straight = begin("resume/Bad-v0", "actor-critic", **options)
    straight.go()
    statuses = [seed["status"] for seed in straight.run.result()["seeds"]]
    assert set(statuses) == {"failed", "finished"}
    run = killed(begin("resume/Bad-v0", "actor-critic", display=Dying(4), **options))
    same(straight.run, rlgrad.resume(run))


def test_seeds_that_ended_each_in_its_way_stay_so(begin):
    """Some are solved, some failed and some still train when the kill comes; then a larger -n."""
    options = {"seeds": range(1000, 1008), "total": 480, "stop_when_solved": True, **OFTEN}
    options |= {"max_episode_steps": 3}
    straight = begin("resume/Short-v0", "actor-critic", **options)
    straight.go()
    ends = [seed["status"] for seed in straight.run.result()["seeds"]]
    assert set(ends) == {"solved", "failed", "finished"}
    run = killed(begin("resume/Short-v0", "actor-critic", display=Dying(12), **options))
    _, counters = store.load_checkpoint(run.checkpoints()[-1])
    assert {each["status"] for each in counters["outcomes"]} == {"solved", "failed", "running"}
    torch.set_num_threads(2)
    try:
        same(straight.run, rlgrad.resume(run))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    before, rows = whole(run)[0]["policy.flat"], run.metrics()
    run = rlgrad.resume(run, 512)
    after = whole(run)[0]["policy.flat"]
    moved = [not torch.equal(x, y) for x, y in zip(before, after, strict=True)]
    assert moved == [end == "finished" for end in ends]
    assert run.metrics()[: len(rows)] == rows
    assert [seed["status"] for seed in run.result()["seeds"]] == ends


class Signalled(Dying):
    """Ctrl-C at the n-th iteration."""

    def update(self, status):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupted_run_goes_on(begin):
    straight = begin("resume/Walk-v0", "relax", **OFTEN)
    straight.go()
    session = begin("resume/Walk-v0", "relax", display=Signalled(5), **OFTEN)
    session.go()
    run = session.run
    assert {seed["status"] for seed in run.result()["seeds"]} == {"interrupted"}
    same(straight.run, rlgrad.resume(run))
    assert {seed["status"] for seed in run.result()["seeds"]} == {"finished"}


def test_a_larger_budget_extends(begin, capsys):
    flags = {"anneal_steps": 500, **OFTEN}
    straight = begin("resume/Walk-v0", "actor-critic", total=640, **flags)
    straight.go()
    short = begin("resume/Walk-v0", "actor-critic", total=320, **flags)
    short.go()
    before = short.run.metrics()
    run = rlgrad.resume(short.run, 640)
    assert store.read_run(run.path).config.total_timesteps == 640
    tensors, others = whole(straight.run)[0], whole(run)[0]
    assert all(torch.equal(x, others[name]) for name, x in tensors.items())
    rows = run.metrics()
    assert rows[: len(before)] == before
    ends = [row["step"] for row in rows if "eval/mean_reward" in row and row["seed"] == 1000]
    assert ends == [320, 640]
    with pytest.raises(UsageError, match="got -n 600; expected at least the 640"):
        rlgrad.resume(run, 600)
    rlgrad.resume(run, 1280, quiet=False)
    assert "step sizes" not in capsys.readouterr().err


def test_what_a_larger_budget_does_to_step_sizes_is_said(begin, capsys):
    short = begin("resume/Walk-v0", "actor-critic", total=320)
    short.go()
    rlgrad.resume(short.run, 640, quiet=False)
    said = capsys.readouterr().err
    assert "at 320 env steps 60% of the full ones instead of 20%" in said
    assert "nothing is left" not in said
    rlgrad.resume(short.run, quiet=False)
    assert "nothing is left to train: a larger -n extends it" in capsys.readouterr().err
    assert {seed["status"] for seed in short.run.result()["seeds"]} == {"finished"}


def test_a_peer_is_refused_with_the_reason(tmp_path):
    run = rlgrad.train(
        "CartPole-v1", "sb3-a2c", total_timesteps=80, log_dir=str(tmp_path), eval_episodes=1,
        quiet=True,
    )  # fmt: skip
    with pytest.raises(UsageError, match="sb3-a2c: Stable-Baselines3 does not store all"):
        rlgrad.resume(run)


def test_two_processes_on_one_run(begin):
    run = killed(begin("CartPole-v1", "actor-critic", display=Dying(6), **OFTEN))
    hold = (
        "import pathlib, sys, time; from rlgrad.locking import Lock; "
        "lock = Lock(pathlib.Path(sys.argv[1])); print(flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(run.path)], stdout=subprocess.PIPE, cwd=ROOT
    )
    try:
        assert holder.stdout.readline()
        before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
        with pytest.raises(UsageError, match=f"in use by process {holder.pid} on "):
            rlgrad.resume(run)
        assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before
    finally:
        holder.kill()
        holder.communicate()
    assert (run.path / "lock").exists()  # left behind by the dead one, and in nobody's way
    rlgrad.resume(run)
    assert not (run.path / "lock").exists()


class Deleting(Dying):
    """Deletes the run's directory at the n-th iteration."""

    def update(self, status):
        self.left -= 1
        if self.left == 0:
            shutil.rmtree(self.path)


def test_a_directory_that_vanishes_ends_the_run_in_one_line(begin):
    display = Deleting(5)
    session = begin("CartPole-v1", "actor-critic", display=display, **OFTEN)
    display.path = session.run.path
    with pytest.raises(UsageError, match=r"cannot write to .*: No such file.* at \d+ env steps"):
        session.go()


def rlgrad_process(*arguments, **options):
    child = started(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    out, err = child.communicate()
    return subprocess.CompletedProcess(child.args, child.returncode, out, err)


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path):
    """A limit on the size of files stands for it: what writes beyond gets an OSError."""
    train = ("train", "CartPole-v1", "--log-dir", tmp_path / "runs", "-n", "4e3", "--num-envs", "2")
    flags = ("--num-steps", "16", "--hidden", "8", "--log-freq", "1", "--save-freq", "500")

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    done = rlgrad_process(*train, *flags, "--eval-episodes", "2", "--quiet", preexec_fn=limit)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert re.search(r"cannot write to .*: File too large; .* at [\d,]+ env steps, step-\d+", line)
    run = store.read_run(store.find_run("latest", tmp_path / "runs"))
    assert rlgrad.load(run).predict(np.zeros(4))[0] in (0, 1)
    done = rlgrad_process("resume", run.path, "--json")
    assert json.loads(done.stdout)["seeds"][0]["status"] == "finished", done.stderr
    # And a run from the command line is described by its own card: other flags are refused.
    named = ("--resume", run.path, "--gamma", "0.5")
    done = rlgrad_process("train", "CartPole-v1", *named)
    assert done.returncode == 2
    assert "has gamma = 0.99, and 0.5 is asked for" in done.stderr
    done = rlgrad_process("train", "CartPole-v1", *flags[2:4], "--resume", run.path, "-n", "4100")
    assert done.returncode == 0, done.stderr
    assert store.read_run(run.path).config.total_timesteps == 4100


def test_train_resume_takes_only_what_the_run_was_begun_with(begin, capsys, monkeypatch):
    """An environment named with its module is consent to import it; other flags are compared."""
    run = begin("test_resume:resume/Walk-v0", "actor-critic", total=32)
    run.go()
    monkeypatch.delitem(sys.modules, "test_resume", raising=False)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    train = "train", "test_resume:resume/Walk-v0", "--resume", str(run.run.path), "--quiet"
    for flags, said in {
        ("--seeds", "3"): "has seeds = (1000, 1001), and (0, 1, 2) is asked for",
        ("--agent", "relax"): "has agent = 'actor-critic', and 'relax'",
        ("--gamma", "0.5"): "has gamma = 0.99, and 0.5",
        ("--env-kwargs", "gamma:0.99"): "has --env-kwargs gamma = None, and 0.99",
        ("--peer-arg", "gamma:0.99"): "has --peer-arg gamma = None, and 0.99",
        ("-n", "31"): "got -n 31; expected at least the 32",
    }.items():
        assert main([*train, *flags]) == 2
        assert said in capsys.readouterr().err
    assert main([*train, "-n", "64", "--num-envs", "2"]) == 0
    assert {seed["steps"] for seed in run.run.result()["seeds"]} == {64}


@pytest.mark.slow
def test_tensorboard_shows_one_curve(begin):
    run = killed(begin("CartPole-v1", "relax", display=Dying(9), eval_freq=128, **OFTEN))
    before = max(row["step"] for row in run.metrics())
    run = killed(restart(run, display=Dying(2)))
    rlgrad.resume(run)
    expected = {}
    for row in run.metrics():
        for tag in row.keys() - {"seed", "step"}:
            points = expected.setdefault(f"seed-{row['seed']}", {}).setdefault(tag, [])
            points.append((row["step"], np.float32(row[tag])))
    assert before < 400
    with serving(run.path) as get:
        tags = get("/data/plugin/scalars/tags")
        assert {name: set(of) for name, of in tags.items()} == {
            name: set(of) for name, of in expected.items()
        }
        for name, of in expected.items():
            for tag, points in of.items():
                query = {"run": name, "tag": tag}
                shown = get("/data/plugin/scalars/scalars", query=query)
                assert [(step, np.float32(x)) for _, step, x in shown] == points, (name, tag)


def test_a_folder_is_a_run_from_the_moment_when_it_can_be_resumed(begin, tmp_path, monkeypatch):
    """Killed before each of the files that begin a run, and before none."""
    written, write = [], creating.write_whole

    def dying(path, data):
        if len(written) == at:
            raise KilledError
        written.append(path.name)
        write(path, data)

    monkeypatch.setattr(creating, "write_whole", dying)
    for at in range(2):  # noqa: B007 (dying reads it)
        written.clear()
        with pytest.raises(KilledError):
            begin("CartPole-v1", "actor-critic")
        with pytest.raises(UsageError, match="no run"):
            store.find_run("latest", str(tmp_path))
    at = 99
    written.clear()
    begin("CartPole-v1", "actor-critic").close()
    assert written == ["run.json", "card.toml"]
    assert rlgrad.resume("latest", log_dir=str(tmp_path)).result()["seeds"][0]["steps"] >= 400


@pytest.mark.slow
def test_kills_at_random_moments():
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "kill_resume.py", "--kills", "6", "--seed", "1"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "0 differing, 0 unreadable" in done.stdout
