"""One run over several processes: real ones, on this machine, over gloo."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ranked import CASES, trained
from safetensors.torch import load_file

torch.set_num_threads(1)
HERE = Path(__file__).parent
WHOLE = {"reinforce", "reinforce-constant", "reinforce-learned", "optimal", "centred"}
WHOLE |= {"whole-moments"}
TOLERANCE = 5e-4


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


def processes(size, *command, cwd=None):
    """As many processes with the same command, as torchrun starts them."""
    port = free_port()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [
        subprocess.Popen(
            [sys.executable, *map(str, command)],
            env=environment(rank, size, port),
            cwd=cwd,
            **pipes,
        )
        for rank in range(size)
    ]


def ended(started):
    """(exit status, standard output, standard error) of each."""
    found = [process.communicate(timeout=300) for process in started]
    return [(process.returncode, *texts) for process, texts in zip(started, found, strict=True)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Folder of what two processes made of all cases."""
    folder = tmp_path_factory.mktemp("pair")
    started = processes(2, HERE / "ranked.py", folder, *CASES)
    yield folder, started
    for process in started:
        process.kill()


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
                size = float(x.double().abs().max()) if x.numel() else 0.0
                bound = TOLERANCE * max(size, 1e-3)
                torch.testing.assert_close(theirs[key], x, rtol=TOLERANCE, atol=bound, msg=key)
        for ours, others in zip(plain["numbers"], said["numbers"], strict=True):
            assert ours.keys() == others.keys()
            assert others == pytest.approx(ours, rel=5e-3, abs=1e-5, nan_ok=True)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one(pair, case):
    folder, started = pair
    if started[0].poll() is None:
        for status, out, err in ended(started):
            assert status == 0, out + err
    compare(folder, case)
