"""Runs over a Ray cluster: several nodes on one machine, workers and nodes that are killed."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import torch

import rlgrad
from rlgrad import cards, cli, store
from rlgrad.arguments import flags_of, spelled
from rlgrad.cluster import address
from rlgrad.cluster import crew as crews
from rlgrad.cluster.attempts import RETRIES, Attempt
from rlgrad.cluster.crew import Cluster, Place
from rlgrad.cluster.mirror import Inbox, Outbox
from rlgrad.cluster.sizing import place_of_run
from rlgrad.comparison import comparing
from rlgrad.comparison.command import Compare
from rlgrad.comparison.plan import Request, Task
from rlgrad.comparison.process import Wire, is_last
from rlgrad.comparison.workers import TRAINS, train_all
from rlgrad.display import Board
from rlgrad.errors import UsageError
from rlgrad.sending import packed
from rlgrad.store import read_run
from rlgrad.tuning.study import JOURNAL

SEED = 1000
STEPS = 30_000
FEW = {"total_timesteps": 4096, "num_envs": 8}
needs_ray = pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="needs the extra ray")

# ------------------------------------------------------------------------ where a cluster is


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["E", "--ray"], "auto"),
        (["--ray", "E"], "auto"),
        (["--ray", "my_package:E-v0"], "auto"),
        (["--ray", "--jobs", "2", "E"], "auto"),
        (["--ray", "auto", "E"], "auto"),
        (["--ray", "head:6379", "E"], "head:6379"),
        (["--ray=[::1]:6379", "E"], "[::1]:6379"),
        (["--ray", "local", "E"], "local"),
    ],
)
def test_ray_alone_is_auto_and_an_environment_is_no_address(typed, meant):
    tokens = spelled(flags_of(Compare), typed)
    assert tokens[tokens.index("--ray") + 1] == meant
    assert len(tokens) == len(typed) + (meant == "auto" and "auto" not in typed) + ("=" in typed[0])


@pytest.mark.parametrize(
    ("given", "said"),
    [("head", "expected auto, local or HOST:PORT"), ("ray://head:10001", "Ray Client is not used")],
)
def test_what_is_no_address_is_refused_before_anything_is_done(given, said, tmp_path, capsys):
    command = ["compare", "CartPole-v1", f"--ray={given}", "--log-dir", str(tmp_path / "runs")]
    assert cli.main(command) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_where_ray_is_missing_the_command_that_installs_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'rlgrad\[ray\]'"):
        rlgrad.compare("CartPole-v1", ray="auto")
    with pytest.raises(UsageError, match=r"pip install 'rlgrad\[ray\]'"):
        rlgrad.tune("CartPole-v1", ray="auto")


def test_an_address_where_no_cluster_answers_is_told_soon(monkeypatch, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(address, "ANSWER", 0.2)
        assert address.answers(f"127.0.0.1:{port}") == "no answer in 0 s"
        server.accept()[0].close()

        def serve() -> None:
            with server.accept()[0] as client:
                client.sendall(b"HTTP/1.1 400")

        threading.Thread(target=serve).start()
        monkeypatch.setattr(address, "ANSWER", 10.0)
        assert address.answers(f"127.0.0.1:{port}") == "what listens there is not Ray"
    assert address.answers(f"127.0.0.1:{port}") == "Connection refused"
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    with pytest.raises(UsageError, match=r"from RAY_ADDRESS.*Connection refused.*ray start"):
        address.running()
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))  # a note that a cluster left behind
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{port}")
    assert address.running() == ""


# ------------------------------------------------------------------------ files on their way


def test_files_arrive_in_an_order_that_can_be_gone_on_from(tmp_path):
    node = tmp_path / "node"
    outbox, run = Outbox(node, 3), node / "E" / "a" / "now"
    assert outbox.changed() == {}
    (run / "checkpoints").mkdir(parents=True)
    (run / "run.json").write_text('{"options": {"log_dir": "there"}}')
    (run / ".card.toml.7").write_text("half")
    (run / "lock").write_text("held")
    assert outbox.changed() == {}  # not yet a run
    (run / "card.toml").write_text("card")
    (run / "metrics.jsonl").write_text('{"seed": 0}\n{"se')
    (run / "checkpoints" / "step-1.safetensors").write_bytes(b"1")
    first = outbox.changed()
    assert list(first) == [
        "run.json", "metrics.jsonl", "checkpoints/step-1.safetensors", "card.toml",
    ]  # fmt: skip
    assert first["metrics.jsonl"] == b'{"seed": 0}\n'
    (run / "metrics.jsonl").write_text('{"seed": 0}\n{"seed": 1}\n')
    assert outbox.changed() == {}  # a row alone can wait
    (run / "checkpoints" / "step-1.safetensors").unlink()
    (run / "checkpoints" / "step-2.safetensors").write_bytes(b"2")
    (run / "result.json").write_text('{"run": "there"}')
    second = outbox.changed()
    assert list(second)[-1] == "result.json"
    assert second["checkpoints/step-1.safetensors"] is None

    inbox = Inbox(None, tmp_path / "runs" / "E" / "a")
    assert inbox.files() == {}
    inbox.take(first)
    with pytest.raises(UsageError, match="in use"):  # nobody else may resume it meanwhile
        Inbox(inbox.folder, tmp_path)
    inbox.take(second)
    inbox.close()
    assert json.loads((inbox.folder / "result.json").read_text())["run"] == str(inbox.folder)
    about = json.loads((inbox.folder / "run.json").read_text())
    assert about["options"]["log_dir"] == str(tmp_path / "runs")
    assert inbox.files().keys() == {
        "card.toml", "run.json", "metrics.jsonl", "result.json", "checkpoints/step-2.safetensors",
    }  # fmt: skip
    again = Outbox(tmp_path / "other", 3)
    again.put("E/a/now", inbox.files())
    assert again.changed(end=True) == {}  # what the driver has is not sent back


@pytest.mark.parametrize(
    "name", ["../card.toml", "/etc/passwd", "a/../../b", "", "a\\b", "lock", ".x"]
)
def test_a_node_cannot_write_outside_the_folder_of_its_run(name, tmp_path):
    inbox = Inbox(None, tmp_path / "runs")
    with pytest.raises(UsageError):
        inbox.take({"card.toml": b"", name: b"1"})
    assert not list(tmp_path.iterdir())


def test_a_task_is_given_up_after_so_many_losses(tmp_path):
    job = {"label": "it", "folder": None, "parent": str(tmp_path), "gpus": 0, "peer": False}
    attempt = Attempt(0, job)
    for i in range(RETRIES):
        assert f"retry {i + 1} of {RETRIES}" in attempt.lost("killed")["say"]
    assert f"lost {RETRIES + 1} times" in attempt.lost("killed")["error"]


def test_a_task_takes_a_gpu_where_its_run_would(tmp_path):
    def gpus(task, there=8, **flags):
        request = Request(("CartPole-v1",), (task.agent,), (SEED,), flags, log_dir=str(tmp_path))
        return place_of_run(request, task, there).gpus

    one, large = TWO[0], {"num_envs": 4096, "total_timesteps": 500_000_000}
    assert gpus(one) == 0
    assert gpus(one, **large) == 1
    assert gpus(one, 0, **large) == 0  # no node has one
    assert gpus(one._replace(agent="reinforce"), **large) == 1
    peer = one._replace(agent="sb3-ppo")
    assert gpus(peer, total_timesteps=500_000_000) == 0
    place = place_of_run(Request(("CartPole-v1",), ("sb3-ppo",), (SEED,), log_dir="r"), peer, 8)
    assert place == Place(None, "r/CartPole-v1/sb3-ppo", 3, peer=True)


# ------------------------------------------------------------------------ a cluster


TWO = [Task("CartPole-v1", "actor-critic", (SEED,))] * 2
GATED = [Task("gated:Gated-v0", "actor-critic", (SEED,))] * 2


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two nodes of one CPU; the second has a folder for temporary files of its own."""
    from ray import cluster_utils

    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(
            prefix="rlgrad-node-"  # short: the name of a socket has a hundred characters at most
        ) as place,
    ):
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # where nodes find ``gated``
        head = {"num_cpus": 1, "include_dashboard": False}
        found = cluster_utils.Cluster(True, head_node_args=head)
        found.place = Path(place)
        found.second = found.add_node(num_cpus=1, env_vars={"TMPDIR": place})
        yield found
        found.shutdown()


class Said(Board):
    """A board that remembers."""

    def __init__(self) -> None:
        super().__init__(1, quiet=True)
        self.lines: list[str] = []
        self.most = 0
        self.say = self.lines.append

    def waiting(self, count: int) -> None:
        self.most = max(self.most, count)


def crew(cluster, place=None):
    return Cluster(cluster.address, 0, TRAINS, place)


def do(cluster, folder, tasks, board, **options):
    """Train tasks on the cluster; (runs, what went wrong)."""
    parent = folder / "CartPole-v1" / "actor-critic"

    env = tasks[0].env
    gated = {"gate": str(gate(folder))} if "Gated" in env else {}
    flags = FEW if gated else {"total_timesteps": STEPS}
    told_of = comparing.told_of(Request((env,), (tasks[0].agent,), (SEED,), flags, gated))
    chosen = {"save_freq": 1024, "keep_last": 2, "eval_episodes": 10, **options}

    def told(task):
        return {**told_of(task), "options": chosen}

    place = Place(None, str(parent), 3)
    runs, wrong = train_all(tasks, told, crew(cluster, lambda task: place), board)
    return [read_run(Path(run)) for run in runs], wrong


def processes(parent: int) -> dict[int, bytes]:
    """Command lines of all that descends from a process."""
    found = {}
    for child in Path(f"/proc/{parent}/task").glob("*/children"):
        for pid in map(int, child.read_text().split()):
            try:
                found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes()
                found |= processes(pid)
            except OSError:
                continue
    return found


def find(node, name: bytes) -> list[int]:
    (raylet,) = node.all_processes["raylet"]
    return [pid for pid, line in processes(raylet.process.pid).items() if name in line]


def when(condition, act):
    """Act in the background as soon as a condition holds, or a minute has passed."""

    def wait() -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def gate(folder: Path) -> Path:
    """What ``GATED`` tasks wait for, after their second checkpoint."""
    return folder / "open"


def checkpoints(folder: Path) -> int:
    """Of the run that has fewest; 0 while there are not two runs."""
    runs = [len(list(run.glob("checkpoints/step-*"))) for run in folder.glob("*/*/*/")]
    return min(runs) if len(runs) == 2 else 0


def rows(run):
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in run.metrics()]


def same(one, other):
    """Whether two runs ended the same, bit for bit."""
    (tensors, _), (others, _) = (store.load_checkpoint(r.checkpoints()[-1]) for r in (one, other))
    assert tensors.keys() == others.keys()
    assert all(torch.equal(x, others[name]) for name, x in tensors.items())
    assert rows(one) == rows(other)
    (result,), (another,) = (run.result()["seeds"] for run in (one, other))
    assert result["evaluation"] == another["evaluation"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The run of one process that nobody disturbs."""
    return rlgrad.train(
        "CartPole-v1", "actor-critic", seeds=[SEED], total_timesteps=STEPS, eval_episodes=10,
        log_dir=tmp_path_factory.mktemp("straight"), quiet=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def straight_gated(tmp_path_factory):
    """That of ``GATED``; its gate is open all along."""
    folder = tmp_path_factory.mktemp("gated")
    gate(folder).touch()
    return rlgrad.train(
        "gated:Gated-v0", "actor-critic", seeds=[SEED], **FEW, eval_episodes=10,
        env_kwargs={"gate": str(gate(folder))}, log_dir=folder, quiet=True,
    )  # fmt: skip


@needs_ray
@pytest.mark.slow
def test_a_comparison_has_the_bits_that_it_has_without_ray(cluster, tmp_path, capfd):
    small = {"agents": "actor-critic,sb3-a2c", "seeds": "1000-1001", "total_timesteps": 600}
    small |= {"eval_episodes": 10}
    rlgrad.compare("CartPole-v1", **small, log_dir=tmp_path / "a", quiet=True)
    rlgrad.compare("CartPole-v1", **small, log_dir=tmp_path / "b", ray=cluster.address)
    heard = capfd.readouterr()
    assert heard.out == ""
    assert f"joined Ray at {cluster.address}: 2 nodes, 2 CPUs, 0 GPUs" in heard.err
    assert "raylet" not in heard.err
    ours, theirs = (
        {(r["agent"], row["seed"]): (row["steps"], row["evaluation"])
         for path in (tmp_path / name).glob("*/*/*/result.json")
         for r in [json.loads(path.read_text())] for row in r["seeds"]}
        for name in "ab"
    )  # fmt: skip
    assert ours == theirs
    assert len(ours) == 4
    for path in (tmp_path / "b").glob("*/*/*/"):  # as a run of this machine
        assert json.loads((path / "result.json").read_text())["run"] == str(path)
        assert list(path.glob("seed-100*/events.*"))
        assert not list(path.glob("**/.*"))
    # What is finished is not run again, nor is a cluster asked for.
    rlgrad.compare("CartPole-v1", **small, log_dir=tmp_path / "b", ray="127.0.0.1:1")
    assert "finished runs with the same card" in capfd.readouterr().err


@needs_ray
@pytest.mark.slow
def test_killed_workers_go_on_from_their_last_checkpoint(cluster, straight_gated, tmp_path):
    board = Said()

    def kill() -> None:
        os.kill(find(cluster.head_node, b"comparison.worker")[0], signal.SIGKILL)
        os.kill(find(cluster.second, b"ray::perform")[0], signal.SIGKILL)
        gate(tmp_path).touch()

    killer = when(lambda: checkpoints(tmp_path) == 2, kill)
    runs, wrong = do(cluster, tmp_path, GATED, board)
    killer.join()
    assert wrong == []
    assert sum(f"retry 1 of {RETRIES}" in line for line in board.lines) == 2
    assert len(list(tmp_path.glob("*/*/*/"))) == 2
    for run in runs:
        same(straight_gated, run)
        (resumed,) = json.loads((run.path / "run.json").read_text())["resumed"]
        assert resumed["at"] == 2048
        assert not (run.path / "lock").exists()
        assert len(run.checkpoints()) == 2  # what a node removed is removed here


@needs_ray
@pytest.mark.slow
def test_what_cannot_be_done_is_told_and_not_tried_again(cluster, tmp_path, monkeypatch):
    board = Said()
    monkeypatch.setattr(crews, "PATIENCE", 1.0)
    gpu = Place(None, str(tmp_path / "runs"), 3, gpus=1)
    _, wrong = train_all(TWO[:1], lambda task: {}, crew(cluster, lambda task: gpu), board)
    assert "no node of the cluster has 1 CPU and 1 GPU, and none came in 1 s" in wrong[0]
    _, wrong = do(cluster, tmp_path, TWO, board, capture="onn")  # an error of the user's
    assert ["capture = 'onn'" in each for each in wrong] == [True, True]
    ours = crews.versions()
    monkeypatch.setattr(crews, "versions", lambda: {**ours, "torch": "1.13", "sb3-contrib": "0"})
    _, wrong = do(cluster, tmp_path, TWO, board)
    there = f"node {socket.gethostname()} has torch {ours['torch']} where the driver has 1.13;"
    assert any(there in each for each in wrong)
    assert not list(tmp_path.iterdir())
    assert not any("retry" in line for line in board.lines)


@needs_ray
@pytest.mark.slow
def test_a_study_goes_on_from_the_trials_that_ended(cluster, tmp_path):
    pytest.importorskip("optuna")
    small = {"trials": 4, "seeds": "1000-1001", "total_timesteps": 2048, "quiet": True}
    plain = rlgrad.tune("CartPole-v1", "actor-critic", **small, jobs=1, log_dir=tmp_path / "a")
    journal = tmp_path / "b" / "tune" / "CartPole-v1" / "actor-critic" / JOURNAL

    def kill() -> None:
        for node in (cluster.head_node, cluster.second):
            for pid in find(node, b"ray::perform"):
                os.kill(pid, signal.SIGKILL)

    killer = when(lambda: journal.exists() and b'"found"' in journal.read_bytes(), kill)
    found = rlgrad.tune(
        "CartPole-v1", "actor-critic", **small, log_dir=tmp_path / "b", ray=cluster.address
    )
    killer.join()
    ours, theirs = (
        [(t.settings, t.area, t.curve) for t in each.tuned[0].trials] for each in (plain, found)
    )
    assert ours == theirs


@needs_ray
@pytest.mark.slow
def test_the_bridge_and_a_node_do_the_same_in_this_process(cluster, tmp_path, monkeypatch):
    # As above, but seen from inside: what they send, item by item.
    import ray

    from rlgrad.cluster import bridge, joining, node

    what = packed(cards.resolve("CartPole-v1", "relax", None, {"total_timesteps": 512}, None, ()))
    job = {
        "label": "it", "module": TRAINS, "versions": crews.versions(), "peer": False, "gpus": 0,
        "arguments": {"what": what, "seeds": [SEED], "env_modules": [],
                      "options": {"eval_episodes": 10}},
        "depth": 3, "folder": None, "parent": str(tmp_path / "CartPole-v1" / "relax"),
    }  # fmt: skip
    # The check of shapes, which tests alone have, hides from Ray that it is a generator.
    monkeypatch.setattr(bridge, "perform", inspect.unwrap(node.perform))
    told = tmp_path / "told"
    before = signal.getsignal(signal.SIGTERM)
    joined = joining.join(cluster.address, 0)
    try:
        assert joined.cpus == joined.nodes == 2
        with told.open("w") as file:
            bridge.Bridge([job], Wire(file), 0, 60.0).run()
        stop = ray.remote(num_cpus=0)(node.Stop).remote()
        items = list(node.perform(json.dumps({**job, "inside": ""}), {}, stop))
        ray.get(stop.ask.remote())
        ended = [news for text, _ in node.perform(json.dumps({**job, "inside": ""}), {}, stop)
                 if is_last(news := json.loads(text))]  # fmt: skip
    finally:
        for _, worker in node._kept.values():
            worker.close()
        node._kept.clear()
        ray.shutdown()
        signal.signal(signal.SIGTERM, before)
    news = [json.loads(line) for line in told.read_text().splitlines()]
    (folder,) = tmp_path.glob("*/*/*/")
    assert news[-1] == {"task": 0, "run": str(folder), "signal": 0}
    text, files = items[-1]
    assert json.loads(text) == {"run": "{RUN}", "signal": 0}
    assert list(files)[-2:] == ["card.toml", "result.json"]
    assert ended[-1].get("signal") or ended[-1].get("died")  # it was asked to end as it began


@needs_ray
@pytest.mark.slow
def test_a_full_disk_of_one_node_ends_its_run_and_no_other(cluster, straight, tmp_path):
    mount = ("mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(cluster.place))
    try:
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("mounting is not allowed here")
    except FileNotFoundError:
        pytest.skip("no mount here")
    try:
        (run,), (wrong,) = do(cluster, tmp_path, TWO, Said(), keep_last=0)
    finally:
        subprocess.run(["umount", "-l", str(cluster.place)], check=True)
    same(straight, run)
    (other,) = set(tmp_path.glob("*/*/*/")) - {run.path}
    assert f"node {socket.gethostname()}: cannot write to" in wrong
    assert "No space left on device" in wrong
    assert f"rlgrad resume {other} goes on there" in wrong
    same(straight, rlgrad.resume(other, quiet=True))


@needs_ray
@pytest.mark.slow
def test_the_task_of_a_node_that_is_gone_goes_on_elsewhere(cluster, straight_gated, tmp_path):
    board = Said()

    def remove() -> None:
        cluster.remove_node(cluster.second, allow_graceful=False)
        gate(tmp_path).touch()

    killer = when(lambda: checkpoints(tmp_path) == 2, remove)
    runs, wrong = do(cluster, tmp_path, GATED, board)
    killer.join()
    assert wrong == []
    assert sum(f"retry 1 of {RETRIES}" in line for line in board.lines) == 1
    assert board.most == 2  # before the first had begun; and one waited for the CPU that is left
    for run in runs:
        same(straight_gated, run)


@needs_ray
@pytest.mark.slow
def test_an_interruption_saves_and_leaves_no_process_of_a_ray_that_we_started(tmp_path):
    command = [
        sys.executable, "-m", "rlgrad", "compare", "CartPole-v1", "--agents", "relax", "--seeds",
        "1000", "-n", "5e6", "--log-dir", str(tmp_path), "--ray", "local", "--jobs", "1",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    next(line for line in process.stderr if "running" in line or "/5M steps" in line)
    children = processes(process.pid)
    assert any(b"raylet" in line for line in children.values())
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "interrupted" in error
    assert "Traceback" not in error
    (result,) = tmp_path.glob("*/*/*/result.json")
    assert json.loads(result.read_text())["seeds"][0]["status"] == "interrupted"
    assert list(result.parent.glob("checkpoints/step-*"))
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.1)
