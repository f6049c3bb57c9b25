"""The package never asks the network for anything: a guard in every process would stop it.

The guard is an audit hook, which Python calls before a socket is connected, a datagram sent or a
name looked up; it sees all that goes through Python's own sockets. It raises, so nothing leaves the
machine, and it writes down what was tried, in case somebody catches the error.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

GUARD = """
import ipaddress, os, sys

NAMES = {"socket.getaddrinfo": 0, "socket.gethostbyname": 0, "socket.gethostbyaddr": 0}
ADDRESSES = {"socket.connect": 1, "socket.sendto": 1, "socket.sendmsg": 1}


def is_here(host):
    if host in (None, "", b"", "localhost", b"localhost"):
        return True
    try:
        return ipaddress.ip_address(host if isinstance(host, str) else host.decode()).is_loopback
    except ValueError:
        return False


def guard(event, arguments):
    if event in NAMES:
        host = arguments[NAMES[event]]
    elif event in ADDRESSES:
        address = arguments[ADDRESSES[event]]
        if not isinstance(address, tuple):  # a socket of this machine's file system
            return
        host = address[0]
    else:
        return
    if not is_here(host):
        with open(os.environ["TRIED"], "a") as file:
            file.write(f"{event} {host!r}\\n")
        raise PermissionError(f"the network was asked for {host!r}")


sys.addaudithook(guard)
"""
SMALL = "--num-envs 2 --num-steps 8 --max-episode-steps 20 --eval-episodes 1 --seed 1000"
COMMANDS = [
    f"train CartPole-v1 --agent relax -n 64 {SMALL}",
    f"train FrozenLake-v1 --estimator constant -n 64 {SMALL}",
    "resume latest -n 128",
    "evaluate latest --episodes 2",
    "compare CartPole-v1 --agents reinforce,sb3-a2c --seeds 1000-1001 -n 64 --eval-episodes 10 "
    "--jobs 2",
    "variance bandit --estimators reinforce,relax --draws 500 --train-steps 5",
    "list agents",
    "list estimators",
    "doctor",
]
RUNNER = """
import sys
from rlgrad.cli import main
for command in sys.argv[1:]:
    status = main(command.split())
    if status:
        sys.exit(f"{command}: status {status}")
"""


@pytest.fixture
def guarded(tmp_path):
    """Run Python code, with arguments, where the guard is in this and every further process."""
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD)
    tried = tmp_path / "tried.txt"

    def run(code: str, *arguments: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        paths = [str(tmp_path / "guard"), os.getcwd(), os.environ.get("PYTHONPATH", "")]
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, paths)),
                "PYTHONWARNINGS": "ignore",
                "TRIED": str(tried),
            },
            capture_output=True,
            text=True,
        )
        return done, tried.read_text().splitlines() if tried.exists() else []

    return run


@pytest.mark.parametrize(
    ("attempt", "said"),
    [  # an address and a name that are reserved for documents: nobody has them
        ("socket.create_connection(('192.0.2.1', 9), 1)", "socket.getaddrinfo '192.0.2.1'"),
        ("socket.socket().connect(('192.0.2.1', 9))", "socket.connect '192.0.2.1'"),
        (
            "socket.socket(type=socket.SOCK_DGRAM).sendto(b'', ('192.0.2.1', 9))",
            "socket.sendto '192.0.2.1'",
        ),
        (
            "urllib.request.urlopen('http://example.invalid/', timeout=1)",
            "socket.getaddrinfo 'example.invalid'",
        ),
    ],
)
def test_the_guard_sees_what_it_is_to_see(guarded, attempt, said):
    child = f"import socket, urllib.request\n{attempt}"
    done, tried = guarded("import subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]])",
                          "-c", child)  # fmt: skip
    assert tried == [said]
    assert "the network was asked for" in done.stderr


@pytest.mark.slow
def test_no_command_asks_the_network_for_anything(guarded):
    done, tried = guarded(RUNNER, *COMMANDS)
    assert tried == []
    assert done.returncode == 0, done.stdout + done.stderr
