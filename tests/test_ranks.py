"""One run over several processes: real ones, on this machine, over gloo."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from ranked import CASES, trained
from safetensors.torch import load_file

import rlgrad
from rlgrad.cards import resolve
from rlgrad.cli import main
from rlgrad.errors import UsageError
from rlgrad.options import Options
from rlgrad.ranks import shares
from rlgrad.ranks.joining import refuse
from rlgrad.ranks.launch import Launch, launched
from rlgrad.ranks.one import ONE, One
from rlgrad.resuming import restart
from rlgrad.store import load_checkpoint, read_run
from rlgrad.streams import Purpose, Streams

torch.set_num_threads(1)
HERE = Path(__file__).parent
WHOLE = {"reinforce", "reinforce-constant", "reinforce-learned", "optimal", "centred"}
WHOLE |= {"whole-moments"}
TOLERANCE = 5e-4
STARTED: list[subprocess.Popen] = []


@pytest.fixture(scope="module", autouse=True)
def none_left():
    """Whatever fails, no process outlives these tests."""
    yield
    for process in STARTED:
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            pipe.close()


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def environment(rank, size, port):
    """What torchrun would set."""
    return {
        **os.environ, "RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}",
    }  # fmt: skip


def processes(size, *command, cwd=None, more=None, **changed):
    """As many processes with the same command, as torchrun starts them."""
    port = free_port()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **changed}
    words = [sys.executable, *map(str, command)]
    each = [{**environment(rank, size, port), **(more or {})} for rank in range(size)]
    found = [subprocess.Popen(words, env=variables, cwd=cwd, **pipes) for variables in each]
    STARTED.extend(found)
    return found


def ended(started):
    """(exit status, standard output, standard error) of each."""
    found = [process.communicate(timeout=100) for process in started]
    return [(process.returncode, *texts) for process, texts in zip(started, found, strict=True)]


def waited(started):
    """Let processes end well, once."""
    if started[0].stdout and not started[0].stdout.closed:
        for status, out, err in ended(started):
            assert status == 0, out + err


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Folder of what two processes made of all cases."""
    folder = tmp_path_factory.mktemp("pair")
    started = processes(2, HERE / "ranked.py", folder, *CASES)
    return folder, started


def compare(folder, case):
    """Hold what several processes left to what one comes to."""
    for name, (tensors, plain) in zip(("first", "last"), trained(case), strict=True):
        theirs = load_file(folder / f"{case}-{name}.safetensors")
        said = json.loads((folder / f"{case}-{name}.json").read_text())
        assert theirs.keys() == tensors.keys()
        assert said["outcomes"] == json.loads(json.dumps(plain["outcomes"]))
        assert said["iteration"] == plain["iteration"]
        for key, x in tensors.items():
            # Whole episodes end everywhere before a rollout does, and begin anew with the next.
            if not (case in WHOLE and key.startswith("lanes.")):
                # A seed that has failed has counted a return that is no number.
                size = float(x.double().nan_to_num().abs().max()) if x.numel() else 0.0
                close = {"rtol": TOLERANCE, "atol": TOLERANCE * max(size, 1e-3), "equal_nan": True}
                torch.testing.assert_close(theirs[key], x, **close, msg=key)
        for ours, others in zip(plain["numbers"], said["numbers"], strict=True):
            assert ours.keys() == others.keys()
            assert others == pytest.approx(ours, rel=5e-3, abs=1e-5, nan_ok=True)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one(pair, case):
    folder, started = pair
    waited(started)
    compare(folder, case)


@pytest.mark.slow
def test_four_processes_train_as_one(tmp_path):
    """Of one lane each."""
    cases = ("reinforce", "actor-critic", "relax", "rebar", "moments", "gymnasium", "captured")
    for status, out, err in ended(processes(4, HERE / "ranked.py", tmp_path, *cases)):
        assert status == 0, out + err
    for case in cases:
        compare(tmp_path, case)


def test_messages_are_as_few_as_the_order_of_steps_allows(pair):
    """One sum of gradients, counts and statistics together; one for each further critic step.

    And what the leader counts. An eta and a temperature wait for the critic that they are of.
    """
    folder, started = pair
    waited(started)
    assert json.loads((folder / "messages.json").read_text()) == {
        "reinforce": 1 + 1, "actor-critic": 4 + 1, "relax": 4 + 1, "rebar": 4 + 1 + 1,
    }  # fmt: skip


# -------------------------------------------------------------------- shares, in this process


def state(seeds, lanes):
    """A state of all lanes as a checkpoint has it; every number tells its seed and lane."""
    number = 10.0 * torch.arange(seeds).unsqueeze(1) + torch.arange(lanes)
    steps = (torch.arange(seeds * lanes) * 7) % 4
    return {
        "policy.flat": torch.ones(seeds, 3), "spread.carry": number, "lanes.root": number.flatten(),
        "lanes.observation": number.reshape(-1, 1).repeat(1, 2), "lanes.steps": steps,
        "lanes.actions": number.flatten().repeat_interleave(steps).to(torch.uint8).unsqueeze(1),
    }  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_shares_put_together_are_the_whole(size):
    whole = state(2, 6)
    parts = [shares.own(whole, 2, shares.share(6, rank, size)) for rank in range(size)]
    for rank, part in enumerate(parts):
        each = range(6 // size * rank, 6 // size * (rank + 1))
        assert part["lanes.root"].tolist() == [10 * s + n for s in range(2) for n in each]
        assert part["spread.carry"].tolist() == [[10 * s + n for n in each] for s in range(2)]
        rows = part["lanes.actions"].flatten().split(part["lanes.steps"].tolist())
        assert all(
            set(row.tolist()) <= {int(n)} for row, n in zip(rows, part["lanes.root"], strict=True)
        )
    of_lanes = [{k: x for k, x in part.items() if shares.is_of_lanes(k)} for part in parts]
    together = shares.joined(of_lanes, 2)
    assert together.keys() == whole.keys() - {"policy.flat"}
    for name, x in together.items():
        assert torch.equal(x, whole[name]), name
        assert x.dtype == whole[name].dtype


def test_lanes_that_cannot_be_divided_name_what_can():
    with pytest.raises(
        UsageError, match="8 environments per seed cannot be divided evenly among 3"
    ):
        shares.share(8, 0, 3)
    with pytest.raises(
        UsageError, match=r"start 1, 2, 4 or 8 of them .* or train with --num-envs 9"
    ):
        shares.share(8, 0, 3)


def test_noise_belongs_to_lanes():
    whole = Streams([3, 4]).uniform(Purpose.ACTION, 5, 6, 7)
    for first in (0, 2, 4):
        share = Streams([3, 4], first=first).uniform(Purpose.ACTION, 5, 2, 7)
        assert torch.equal(share, whole[:, first : first + 2])


@pytest.mark.parametrize(
    ("name", "value"),
    [("RANK", "one"), ("WORLD_SIZE", "-2"), ("RANK", "2"), ("LOCAL_RANK", "")],
)
def test_an_environment_that_torchrun_never_makes_is_refused(name, value, monkeypatch):
    for key, usual in environment(0, 2, 1234).items():
        monkeypatch.setenv(key, usual)
    assert launched() == Launch(0, 2, 0, 2)
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=name):
        launched()


def test_one_process_of_a_torchrun_is_alone(monkeypatch):
    for key, usual in environment(0, 1, 1234).items():
        monkeypatch.setenv(key, usual)
    assert launched() is None


class Two(One):
    """The answers of one process that says it is two."""

    size = 2


def test_what_makes_no_sense_in_several_processes_is_refused(monkeypatch):
    two, options = Two(), Options(log_info=("x",))
    with pytest.raises(UsageError, match="trains in one process; train it without torchrun"):
        refuse(resolve("CartPole-v1", "sb3-ppo"), Options(), two)
    with pytest.raises(UsageError, match="processes, which do not exchange infos; leave it out"):
        refuse(resolve("CartPole-v1"), options, two)
    refuse(resolve("CartPole-v1", "sb3-ppo"), options, ONE)
    for key, usual in environment(1, 2, 1234).items():
        monkeypatch.setenv(key, usual)
    for command in ("compare", "variance", "evaluate", "tune", "watch"):
        assert main([command]) == 2  # rank 0 says why


# ------------------------------------------------------------------------------ whole runs

TRAIN = ("train", "CartPole-v1", "--device", "cpu", "--eval-episodes", "1")


def runs(size, *arguments, cwd, **changed):
    """Processes of rlgrad's command in a folder."""
    return processes(size, "-m", "rlgrad", *arguments, cwd=cwd, **changed)


def last(folder):
    """(tensors, rows without what a clock says) of the only run in a folder."""
    (card,) = folder.glob("runs/*/*/*/card.toml")
    run = read_run(card.parent)
    tensors, _ = load_checkpoint(run.checkpoints()[-1])
    return tensors, [
        {k: x for k, x in row.items() if not k.startswith("time/")} for row in run.metrics()
    ]


def lines(text):
    """What rlgrad says when it ends."""
    return [line for line in text.splitlines() if line.startswith("rlgrad: ")]


@pytest.mark.slow
def test_a_run_goes_on_in_any_number_of_processes(tmp_path):
    given = {"anneal_steps": 4096, "num_steps": 16, "vec": "sync", "eval_episodes": 1}
    own = [word for key, x in given.items() for word in (f"--{key}".replace("_", "-"), x)]
    several = tmp_path / "several"
    several.mkdir()
    for size, *command in (
        (2, "train", "CartPole-v1", "--device", "cpu", "--agent", "relax", *own, "-n", "512"),
        (4, "resume", "latest", "-n", "1536", "--log-freq", "128"),
    ):
        for status, out, err in ended(runs(size, *command, cwd=several)):
            assert status == 0, out + err
        if size == 2:
            rlgrad.resume("latest", 1024, log_dir=str(several / "runs"), quiet=True)
    straight = rlgrad.train(
        "CartPole-v1", "relax", total_timesteps=1536, quiet=True, log_dir=tmp_path / "one" / "runs",
        **given,
    )  # fmt: skip
    assert straight.result()["seeds"][0]["status"] == "finished"
    (theirs, rows), (ours, _) = last(several), last(tmp_path / "one")
    assert theirs.keys() == ours.keys()
    for name, x in ours.items():
        size = float(x.double().abs().max()) if x.numel() else 0.0
        torch.testing.assert_close(theirs[name], x, rtol=2e-3, atol=2e-3 * size, msg=name)
    assert [row["step"] for row in rows][-2:] == [1536, 1536]
    assert torch.equal(theirs["episodes.recent"], ours["episodes.recent"])  # the learning curve


def begin(tmp_path, size=2, *more, **changed):
    """Processes of a long run, once they have written a checkpoint."""
    endless = ("-n", "4e9", "--save-freq", "2048", "--keep-last", "2")
    started = runs(size, *TRAIN, *endless, *more, cwd=tmp_path, **changed)
    until = time.monotonic() + 120
    while not list(tmp_path.glob("runs/*/*/*/checkpoints/step-*")):
        assert time.monotonic() < until, [process.poll() for process in started]
        time.sleep(0.1)
    return started


def goes_on(tmp_path):
    """The run ends well in one process."""
    (card,) = tmp_path.glob("runs/*/*/*/card.toml")
    path = read_run(card.parent).checkpoints()[-1]
    steps = load_checkpoint(path)[1]["steps"][0]
    assert path.exists()
    session = restart(card.parent, given={"quiet": True})
    assert session.trainer.outcomes[0].steps == steps
    assert session.standing.exact
    session.close()


@pytest.mark.slow
def test_a_killed_process_ends_the_others_with_one_line(tmp_path):
    started = begin(tmp_path, 3 if os.cpu_count() > 2 else 2, "--num-envs", "6")
    started[-1].kill()
    *others, (status, _, _) = ended(started)
    assert status == -signal.SIGKILL
    assert [each[0] for each in others] == [2] * len(others)
    (line,) = lines("".join(each[2] for each in others))
    assert f"rank {len(others)} (process {started[-1].pid} on " in line
    assert "was lost: killed, or out of reach; training stood at" in line
    assert "is kept; rlgrad resume" in line
    assert "Traceback" not in "".join(each[2] for each in others)
    goes_on(tmp_path)


@pytest.mark.slow
def test_a_killed_leader_is_named_by_another(tmp_path):
    started = begin(tmp_path)
    started[0].kill()
    _, (status, _, err) = ended(started)
    assert status == 2
    (line,) = lines(err)
    assert "rank 0 (process" in line
    assert "rlgrad resume runs/CartPole-v1/" in line
    goes_on(tmp_path)


@pytest.mark.slow
def test_a_process_that_stands_still_is_waited_for_and_then_named(tmp_path):
    started = begin(tmp_path, 2, "--rank-timeout", "4")
    started[1].send_signal(signal.SIGSTOP)
    out, err = started[0].communicate(timeout=120)
    started[1].send_signal(signal.SIGCONT)
    started[1].communicate(timeout=120)
    assert started[0].returncode == 2, out
    (line,) = lines(err)
    assert "did not answer within 4 s; if it is only slow, give more with --rank-timeout" in line
    goes_on(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "number"), [(1, signal.SIGTERM), (0, signal.SIGINT)])
def test_a_signal_to_any_process_saves_and_ends_all(rank, number, tmp_path):
    started = begin(tmp_path)
    started[rank].send_signal(number)
    found = ended(started)
    assert [status for status, _, _ in found] == [128 + number] * 2
    assert "interrupted" in found[0][2]
    assert found[1][1] == found[1][2] == ""  # one shows and writes
    (card,) = tmp_path.glob("runs/*/*/*/card.toml")
    result = read_run(card.parent).result()
    assert result["signal"] == number
    assert result["seeds"][0]["status"] == "interrupted"
    goes_on(tmp_path)


@pytest.mark.slow
def test_a_full_disk_at_the_leader_is_said_once(tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))

    often = ("-n", "4e9", "--log-freq", "256", "--save-freq", "2048", "--hidden", "8")
    found = ended(runs(2, *TRAIN, *often, cwd=tmp_path, preexec_fn=limit))
    assert [status for status, _, _ in found] == [2, 2]
    (line,) = lines(found[0][2] + found[1][2])
    assert "cannot write to runs/CartPole-v1/" in line
    assert "File too large; training stood at" in line


@pytest.mark.slow
def test_an_environment_that_fails_in_one_process_is_told_by_the_leader(tmp_path):
    mine = ("train", "ranked_env:ranked/Breaking-v0", "--vec", "sync", "--num-envs", "4")
    found = ended(runs(2, *mine, "-n", "4e9", "--device", "cpu", cwd=tmp_path))
    assert [status for status, _, _ in found] == [2, 2]
    (line,) = lines(found[0][2] + found[1][2])
    assert line.startswith("rlgrad: rank 1: ")
    assert "the pole fell off" in line


@pytest.mark.slow
def test_what_differs_or_cannot_be_divided_is_refused_once(tmp_path):
    differing = ("train", "ranked_env:ranked/Breaking-v0", "--vec", "sync", "-n", "512")
    for arguments, size, words in (
        (differing, 2, "and rank 1 has 0.0: all processes must be alike"),
        ((*TRAIN, "--num-envs", "8"), 3, "start 1, 2, 4 or 8 of them"),
    ):
        found = ended(runs(size, *arguments, cwd=tmp_path, more={"RANKED_OTHER": "1"}))
        assert [status for status, _, _ in found] == [2] * size
        (line,) = lines("".join(err for _, _, err in found))
        assert words in line
        assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_torchrun_itself(tmp_path):
    begun = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "rlgrad",
         *TRAIN, "-n", "4e9", "--save-freq", "2048", "--keep-last", "2"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1",
             "PYTHONPATH": str(HERE.parent)},
    )  # fmt: skip
    while not list(tmp_path.glob("runs/*/*/*/checkpoints/step-*")):
        assert begun.poll() is None, begun.communicate()
        time.sleep(0.1)
    begun.terminate()
    _, err = begun.communicate(timeout=120)
    assert "interrupted" in err
    (card,) = tmp_path.glob("runs/*/*/*/card.toml")
    assert read_run(card.parent).result()["signal"] == signal.SIGTERM
    goes_on(tmp_path)


def test_a_process_alone_imports_nothing_of_what_sends_messages(tmp_path):
    program = (
        "import json, sys; from rlgrad.cli import main; "
        "main(['train', 'CartPole-v1', '-n', '256', '--eval-episodes', '1', '--quiet']); "
        "print(json.dumps([x for x in sys.modules if x.startswith('rlgrad.ranks')]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
    )  # fmt: skip
    few = ("joining", "launch", "one", "telling")
    found = set(json.loads(done.stdout.splitlines()[-1]))
    assert found == {"rlgrad.ranks", *(f"rlgrad.ranks.{name}" for name in few)}
