"""Faults, each provoked: training stops or goes on as docs/faults.md says, and nothing is lost."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from kept_runs import started, strict

import rlgrad
from rlgrad import cards, store, training
from rlgrad.display import Display
from rlgrad.errors import UsageError, is_out_of_memory, out_of_memory
from rlgrad.locking import Lock
from rlgrad.options import Options

torch.set_num_threads(1)
ROOT = Path(__file__).parent.parent
SMALL = {"num_envs": 2, "num_steps": 8, "hidden": (8,)}
OFTEN = {"save_freq": 64, "log_freq": 1, "eval_episodes": 2}


class Odd(gymnasium.Env):
    """Gives or does one odd thing at one step, in the lanes that are told to."""

    observation_space, action_space = Box(-1, 1, (2,), np.float32), Discrete(2)

    def __init__(self, what="", value=float("nan"), at=0):
        self.what, self.value, self.at, self.time = what, value, at, 0

    def strikes(self, what):
        return self.what == what and self.time == self.at

    def observe(self):
        x = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        if self.strikes("observation"):
            x[1] = self.value
        if self.strikes("shape"):
            return x[:1]
        return np.array(["a", "b"]) if self.strikes("dtype") else x

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observe(), {}

    def step(self, action):
        self.time += 1
        if self.strikes("raise"):
            raise RuntimeError("the motor is stuck")
        reward = self.value if self.strikes("reward") else float(action)
        return self.observe(), reward, False, False, {}


@pytest.fixture
def odd():
    """Registers ``faults/Odd-v0``: ``odd(first, last, **fault)`` lets those lanes be odd."""
    made = []

    def register(first=0, last=0, **fault):
        made.clear()

        def make(**_):
            lane = len(made) - 1  # the first was made to look at
            made.append(lane)
            return Odd(**fault if first <= lane < last else {})

        gymnasium.register("faults/Odd-v0", make, max_episode_steps=10)

    yield register
    gymnasium.registry.pop("faults/Odd-v0", None)


class Acting(Display):
    """Calls a function at the n-th iteration."""

    def __init__(self, iteration, act):
        super().__init__("", quiet=True)
        self.left, self.act, self.said = iteration, act, []
        self.say = self.said.append

    def update(self, status):
        self.left -= 1
        if self.left == 0:
            self.act()


@pytest.fixture
def begin(tmp_path):
    """A session of a small run."""

    def begin(env="CartPole-v1", display=None, seeds=(1000, 1001), total=256, where=None, **given):
        flags = {k: given.pop(k) for k in list(given) if k not in Options.__dataclass_fields__}
        flags = {**SMALL, "total_timesteps": total, "max_episode_steps": 10, **flags}
        resolved = cards.resolve(env, flags.pop("agent", "actor-critic"), None, flags)
        options = {**OFTEN, "quiet": True, "log_dir": str(where or tmp_path / "runs"), **given}
        return training.start(resolved, list(seeds), Options(**options), display)

    return begin


def rows(run, seed=None):
    """The record without its clock."""
    return [
        {k: v for k, v in row.items() if not k.startswith("time/")}
        for row in run.metrics()
        if seed is None or row["seed"] == seed
    ]


def same(one, other):
    """Whether two runs ended the same, bit for bit."""
    (tensors, _), (others, _) = (store.load_checkpoint(r.checkpoints()[-1]) for r in (one, other))
    assert tensors.keys() == others.keys()
    assert all(torch.equal(x, others[name]) for name, x in tensors.items())
    assert rows(one) == rows(other)


# ------------------------------------------------------------------- numbers that are not finite


def test_one_of_twenty_fails_and_the_others_keep_their_bits(begin, odd):
    options = {"env": "faults/Odd-v0", "vec": "sync", "seeds": range(1000, 1020), "total": 64}
    odd()
    healthy = begin(**options)
    healthy.go()
    gymnasium.registry.pop("faults/Odd-v0")
    odd(14, 16, what="reward", at=9)  # the two lanes of the eighth seed
    display = Acting(0, None)
    session = begin(display=display, **options)
    session.go()
    seeds = session.run.result()["seeds"]
    failed = [seed["seed"] for seed in seeds if seed["status"] == "failed"]
    assert failed == [1007]
    (line,) = (line for line in display.said if "failed" in line)
    assert line.startswith("seed 1007 failed and is frozen: the environment gave the reward nan")
    assert "in lane 0 of seed 1007, after 18 env steps" in line
    assert seeds[7]["steps"] == 16  # of its last good update
    assert seeds[7]["evaluation"] is None
    mine = store.load_checkpoint(session.run.checkpoints()[-1])[0]
    theirs = store.load_checkpoint(healthy.run.checkpoints()[-1])[0]
    others = [i for i in range(20) if i != 7]
    for name, x in mine.items():
        assert torch.equal(x[others], theirs[name][others]), name
        if not name.startswith(("episodes.", "place")):
            assert bool(x[7].to(torch.float32).isfinite().all()), name
    for seed in range(1000, 1020):
        expected = rows(healthy.run, seed)
        assert rows(session.run, seed) == (expected[:1] if seed == 1007 else expected)
    strict((session.run.path / "result.json").read_text())


@pytest.mark.parametrize("agent", ["actor-critic", "reinforce"])
@pytest.mark.parametrize("what", ["reward", "observation"])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_number_that_is_not_finite_names_lane_and_step(begin, odd, agent, what, value):
    at = random.Random(f"{agent} {what} {value}").randrange(1, 80)
    odd(3, 4, what=what, value=value, at=at)
    session = begin("faults/Odd-v0", vec="sync", agent=agent, seeds=range(1000, 1003), total=160)
    session.go()
    first, second, third = session.run.result()["seeds"]
    assert [first["status"], third["status"]] == ["finished"] * 2
    assert second["reason"] == (
        f"the environment gave the {what} {value} in lane 1 of seed 1001, after {2 * at} env steps"
    )
    assert second["steps"] < 2 * at <= second["steps"] + 2 * 10


def test_a_huge_step_size_fails_all_seeds_and_ends(begin):
    session = begin(learning_rate=1e30, critic_learning_rate=1e30, total=2_000)
    session.go()
    seeds = session.run.result()["seeds"]
    assert {seed["status"] for seed in seeds} == {"failed"}
    assert all("in the update after" in seed["reason"] for seed in seeds)
    assert all(seed["steps"] < 2_000 for seed in seeds)
    assert bool(np.isfinite(rlgrad.load(session.run).predict(np.zeros(4))[0]))


def test_a_gradient_whose_norm_overflows_is_no_step_of_zero(begin, odd):
    """Its squares are beyond float32, where each of its numbers is not."""
    odd(2, 4, what="reward", value=1e25, at=5)
    options = {"agent": "reinforce", "value_scale": 1.0, "max_grad_norm": 0.5}
    session = begin("faults/Odd-v0", vec="sync", seeds=range(1000, 1003), total=60, **options)
    session.go()
    statuses = [seed["status"] for seed in session.run.result()["seeds"]]
    assert statuses == ["finished", "failed", "finished"]


@pytest.mark.parametrize("what", ["reward", "observation"])
def test_nan_in_an_evaluation_is_no_score(begin, odd, what):
    odd(4, 1000, what=what, at=3)  # training has lanes 0 to 3
    session = begin("faults/Odd-v0", vec="sync")
    session.go()
    result = strict((session.run.path / "result.json").read_text())
    for seed in result["seeds"]:
        assert seed["status"] == "failed"
        assert seed["evaluation"] is None
        assert "in evaluation, in step 3 of episode 0" in seed["reason"]
    assert not [row for row in session.run.metrics() if "eval/mean_reward" in row]
    with pytest.raises(UsageError, match="infinite or NaN"):
        rlgrad.evaluation.evaluate_run(str(session.run.path), None, 2, 0)


@pytest.mark.parametrize("what", ["raise", "shape", "dtype"])
def test_an_environment_that_breaks_tells_what_is_kept(begin, odd, what):
    odd(1, 2, what=what, at=70)
    session = begin("faults/Odd-v0", vec="sync")
    with pytest.raises(Exception) as caught:
        session.go()
    told = " ".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert "training stood at 128 env steps, step-000000000128.safetensors is kept" in told
    assert f"rlgrad resume {session.run.path} goes on there" in told
    assert not (session.run.path / "lock").exists()


# ----------------------------------------------------------------------------------------- disks


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own, where this process may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    size = ("mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(place))
    try:
        done = subprocess.run(size, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount here")
    if done.returncode:
        pytest.skip("mounting is not allowed here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def remount(disk, option):
    subprocess.run(["mount", "-o", f"remount,{option}", str(disk)], check=True)


def test_a_disk_that_fills_up_keeps_what_there_was(begin, disk):
    straight = begin(total=1600)
    straight.go()
    session = begin(total=1600, where=disk)
    with pytest.raises(UsageError) as caught:
        session.go()
    path, last = session.run.path, session.run.checkpoints()[-1].name
    assert str(caught.value).startswith(f"cannot write to {path}: No space left on device; ")
    assert f"{last} is kept; rlgrad resume {path} goes on there" in str(caught.value)
    assert rlgrad.load(session.run).predict(np.zeros(4))[0] in (0, 1)
    with pytest.raises(UsageError, match="No space left on device"):  # and nothing gets worse
        rlgrad.resume(path)
    remount(disk, "size=40m")
    same(straight.run, rlgrad.resume(path))


def test_a_disk_that_is_full_from_the_start(begin, disk):
    begin(where=disk).close()
    with suppress(OSError), (disk / "ballast").open("wb", 0) as file:
        while file.write(bytes(4096)):
            pass
    with pytest.raises(UsageError, match=r"cannot write .*No space left on device"):
        begin(where=disk)


def test_a_disk_that_cannot_be_written_to(begin, disk):
    session = begin(where=disk)
    session.go()
    remount(disk, "ro")
    with pytest.raises(UsageError, match=r"cannot lock .*: Read-only file system"):
        rlgrad.resume(session.run)
    with pytest.raises(UsageError, match=r"cannot write runs to .*: Read-only file system"):
        begin(where=disk)
    assert rlgrad.load(session.run).predict(np.zeros(4))[0] in (0, 1)


# --------------------------------------------------------------------------------------- signals


def kill(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    "numbers",
    [
        (signal.SIGTERM,),
        (signal.SIGHUP,),
        (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP),  # as some schedulers send them
    ],
)
def test_a_signal_ends_the_run_with_a_checkpoint(begin, numbers):
    straight = begin()
    straight.go()
    display = Acting(5, lambda: kill(*numbers))
    session = begin(display=display)
    with pytest.raises(SystemExit) as caught:
        training.finish(session)
    assert caught.value.code == 128 + numbers[0]
    result = session.run.result()
    assert result["signal"] == numbers[0]
    assert {seed["status"] for seed in result["seeds"]} == {"interrupted"}
    assert {seed["steps"] for seed in result["seeds"]} == {5 * 16}
    (line,) = display.said[-1:]
    assert line.startswith(f"{signal.Signals(numbers[0]).name}: stopping after this rollout")
    same(straight.run, rlgrad.resume(session.run))


def test_a_second_ctrl_c_stops_at_once(begin):
    straight = begin()
    straight.go()
    session = begin(display=Acting(5, lambda: kill(signal.SIGINT, signal.SIGINT)))
    with pytest.raises(KeyboardInterrupt, match=r"stopped at once; .* at 80 env steps, step-.*64"):
        session.go()
    assert not session.run.result()
    same(straight.run, rlgrad.resume(session.run))


def test_nohup_is_heard(begin):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        session = begin(display=Acting(5, lambda: kill(signal.SIGHUP)))
        session.go()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert {seed["status"] for seed in session.run.result()["seeds"]} == {"finished"}


def test_signals_at_random_moments(begin):
    """During rollouts, updates, checkpoint writes and evaluations; the second at once after."""
    straight = begin(eval_freq=64)
    began = time.monotonic()
    straight.go()
    span, choose = time.monotonic() - began, random.Random(6)
    ends = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGINT, signal.SIGHUP):
        session = begin(eval_freq=64)
        twice = [number, *([number] if choose.random() < 0.5 else [])]
        timer = threading.Timer(choose.uniform(0, span), kill, twice)
        before = signal.signal(number, lambda *_: None)  # where the run has just ended
        timer.start()
        try:
            session.go()
            ends.append(session.signal)
        except KeyboardInterrupt:
            ends.append("at once")
        timer.join()
        signal.signal(number, before)
        assert not (session.run.path / "lock").exists()
        same(straight.run, rlgrad.resume(session.run))
    assert any(ends)


def train_arguments(folder, steps="1e7"):
    small = ("--num-envs", "2", "--num-steps", "16", "--hidden", "8", "--eval-episodes", "1")
    return ("train", "CartPole-v1", "--log-dir", folder, "-n", steps, *small)


def test_a_terminal_that_closes_ends_all_processes_with_a_checkpoint(tmp_path):
    """SIGHUP reaches the worker processes as well, and what is said meets an error."""
    import fcntl
    import termios

    leader, terminal_ = os.openpty()

    def own():
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    child = started(
        *train_arguments(tmp_path), "--vec", "async",
        stdin=terminal_, stdout=terminal_, stderr=terminal_, preexec_fn=own,
    )  # fmt: skip
    os.close(terminal_)
    seen = b""
    while b"env steps" not in seen and b" steps  " not in seen:
        seen += os.read(leader, 4096)
    os.close(leader)
    assert child.wait(120) == 128 + signal.SIGHUP
    run = store.read_run(store.find_run("latest", tmp_path))
    assert run.result()["signal"] == signal.SIGHUP
    assert run.checkpoints()


@pytest.mark.slow
def test_signals_while_it_starts(tmp_path):
    """Before and while packages are loaded: silence or one line, no traceback, no broken run."""
    for i in range(8):
        child = started(*train_arguments(tmp_path / str(i), "2e3"), stderr=subprocess.PIPE)
        time.sleep(0.1 + 0.4 * i)
        child.send_signal(signal.SIGINT if i % 2 else signal.SIGTERM)
        said = child.communicate(timeout=120)[1]
        assert child.returncode in (0, 130, 143, -signal.SIGTERM, -signal.SIGINT), said
        # Before rlgrad itself is reached, Python's own start shows a traceback.
        assert "Traceback" not in said or "rlgrad/" not in said, said
        for card in (tmp_path / str(i)).glob("*/*/*/card.toml"):
            rlgrad.resume(card.parent, eval_episodes=1)


# -------------------------------------------------------------------------------------- terminals


@pytest.fixture
def deaf(monkeypatch):
    """Standard error is a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    file = os.fdopen(writer, "w", buffering=1)
    monkeypatch.setattr(sys, "stderr", file)
    yield
    monkeypatch.undo()
    file.buffer.raw.close()


def test_training_goes_on_where_nobody_listens(begin, deaf, tmp_path):
    run = rlgrad.train(
        "CartPole-v1", "actor-critic", total_timesteps=64, log_dir=str(tmp_path), eval_episodes=1
    )
    assert run.result()["seeds"][0]["status"] == "finished"


def test_closed_standard_streams_lend_their_numbers_to_no_file():
    code = (
        "import os\nos.close(1); os.close(2)\n"
        "from rlgrad.terminal import open_standard\nopen_standard()\n"
        "os._exit(os.open(os.devnull, os.O_RDONLY))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode > 2


def test_standard_output_that_cannot_be_written(tmp_path):
    for words in ("list agents", "list agents --json", "doctor", "--help"):
        with open("/dev/full", "w") as full:
            child = started(*words.split(), stdout=full, stderr=subprocess.PIPE, cwd=tmp_path)
            said = child.communicate()[1]
        assert child.returncode == 2, words
        assert said == "rlgrad: cannot write to standard output: No space left on device\n"
        reader, writer = os.pipe()
        os.close(reader)
        child = started(*words.split(), stdout=writer, stderr=subprocess.PIPE, cwd=tmp_path)
        os.close(writer)
        assert child.communicate()[1] == ""
        assert child.returncode == 141, words


def test_a_seed_that_stopped_asks_for_no_numbers(begin):
    session = begin(seeds=(1000, 1001), total=256, log_freq=100)
    solved, running = session.trainer.outcomes
    solved.status, solved.steps, running.steps = "solved", 96, 32
    assert not session.wants(32)
    running.steps = 96
    assert session.wants(32)
    session.close()


# ------------------------------------------------------------------------------------------ locks


def test_two_sessions_of_one_process(begin, tmp_path):
    session = begin()
    with pytest.raises(UsageError, match="in use by another session of this process"):
        rlgrad.resume(session.run)
    hold = "import pathlib, sys; from rlgrad.locking import Lock; Lock(pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-c", hold, str(session.run.path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    # The refusal has not given up the lock that the session has.
    assert f"is in use by process {os.getpid()} on " in done.stderr
    session.go()
    rlgrad.resume(session.run)
    other = begin()  # and a session that is merely forgotten holds nothing
    path = other.run.path
    other.close()
    Lock(path).release()


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"pid": 1, "host": "elsewhere", "since": "2020"}', '{"pid": "x"}', "\0\xff"],
)
def test_a_stale_lock_is_in_nobodys_way(tmp_path, text):
    (tmp_path / "lock").write_bytes(text.encode("latin-1"))
    lock = Lock(tmp_path)
    assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    lock.release()
    assert not (tmp_path / "lock").exists()


def test_a_forked_child_gives_up_no_lock(tmp_path):
    lock = Lock(tmp_path)
    child = os.fork()
    if child == 0:
        lock.release()
        os._exit(0)
    os.waitpid(child, 0)
    assert (tmp_path / "lock").exists()
    lock.release()


# ------------------------------------------------------------------------------- clocks and memory


def test_a_clock_that_goes_backwards(begin, monkeypatch):
    """The machine's clock cannot be set by a test; what reads it gets an earlier time instead."""
    straight = begin()
    straight.go()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    session = begin(display=Acting(5, lambda: kill(signal.SIGTERM)))
    session.go()
    monkeypatch.setattr(time, "time", lambda: now - 86_400)
    run = rlgrad.resume(session.run)
    same(straight.run, run)
    seconds = [row["time/wall_seconds"] for row in run.metrics() if row["seed"] == 1000]
    assert seconds == sorted(seconds)
    stamps = [int(p.name.split(".")[3]) for p in sorted((run.path / "seed-1000").iterdir())]
    assert len(stamps) == 2
    assert stamps[0] < stamps[1]  # or TensorBoard would read them in the wrong order


def refused(number):
    """Ask for more memory than there is; of a GPU, which may not be here, by its error alone."""
    if number == 0:
        torch.empty(1 << 50)
    if number == 1:
        np.empty(1 << 57)
    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB"
    )


@pytest.mark.parametrize(
    ("number", "size"), [(0, "4503599627370496 bytes"), (1, "1.00 EiB"), (2, "2.00 GiB")]
)
def test_out_of_memory_is_one_line(begin, number, size):
    session = begin(display=Acting(5, lambda: refused(number)))
    with pytest.raises(UsageError, match=f"^out of memory: {size} were refused; fewer") as caught:
        session.go()
    assert "at 80 env steps, step-000000000064.safetensors is kept; rlgrad" in str(caught.value)


def test_other_errors_are_not_taken_for_it():
    assert not is_out_of_memory(RuntimeError("shapes differ"))
    assert not is_out_of_memory(UsageError("no"))
    assert is_out_of_memory(MemoryError())
    assert out_of_memory(MemoryError()).startswith("out of memory; fewer seeds")


@pytest.mark.slow
def test_memory_that_runs_out_at_the_start(tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))

    wide = ("--seeds", "20", "--hidden", "2000", "2000")
    child = started(*train_arguments(tmp_path), *wide, stderr=subprocess.PIPE, preexec_fn=limit)
    said = child.communicate(timeout=300)[1]
    assert child.returncode == 2
    assert said.splitlines()[-1].startswith("rlgrad: out of memory"), said
    assert not list(tmp_path.iterdir())
