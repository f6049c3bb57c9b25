"""Which Ray cluster ``--ray`` means, and whether one answers there."""

from __future__ import annotations

import importlib.util
import os
import re
import socket
from pathlib import Path

from rlgrad.errors import UsageError, shown

ADDRESS = re.compile(r"auto|local|[^\s]+:[0-9]{1,5}")
"""What may follow ``--ray``: auto (a cluster that runs here, else one of its own), local (always
one of its own), or HOST:PORT."""
ANSWER = 10.0  # seconds that a cluster has to answer
# The beginning of HTTP/2, which Ray's servers speak, with an empty table of settings.
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))


def check_address(text: str) -> str:
    """What ``--ray`` was given.

    Raises:
        UsageError: for anything else than ``ADDRESS``, and for Ray Client.
    """
    if text.startswith("ray://"):
        raise UsageError(
            f"got --ray {shown(text)}, and Ray Client is not used; run rlgrad on a machine of the "
            "cluster, by --ray auto, or send it there by `ray job submit`"
        )
    if not ADDRESS.fullmatch(text):
        raise UsageError(f"got --ray {shown(text)}; expected auto, local or HOST:PORT")
    return text


def need_ray(address: str) -> None:
    """Refuse a wrong ``--ray``, or one without the package.

    Raises:
        UsageError: with the command that installs it.
    """
    check_address(address)
    if importlib.util.find_spec("ray") is None:
        raise UsageError("--ray needs ray, which is not installed: pip install 'rlgrad[ray]'")


def answers(address: str) -> str:
    """What is wrong with HOST:PORT; empty: a server of the kind that Ray's are answers."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), ANSWER) as server:
            server.sendall(_HELLO)
            told = server.recv(9)
    except TimeoutError:
        return f"no answer in {ANSWER:.0f} s"
    except (OSError, OverflowError) as error:
        return getattr(error, "strerror", None) or str(error)
    return "" if told[3:4] == b"\4" else "what listens there is not Ray"


def running() -> str:
    """HOST:PORT of the cluster that ``ray start`` or RAY_ADDRESS tells of here; empty: none.

    Raises:
        UsageError: where RAY_ADDRESS names one that does not answer.
    """
    named = os.environ.get("RAY_ADDRESS", "")
    if named and named not in ("auto", "local"):
        return reached(check_address(named), " (from RAY_ADDRESS)")
    note = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"
    try:
        found = note.read_text("utf-8").strip()
    except (OSError, ValueError):
        return ""
    return found if ADDRESS.fullmatch(found) and not answers(found) else ""


def reached(address: str, whence: str = "") -> str:
    """The same HOST:PORT, where a cluster answers.

    Raises:
        UsageError: where none does.
    """
    if wrong := answers(address):
        raise UsageError(
            f"no Ray cluster answers at {address}{whence}: {wrong}; start one by `ray start "
            "--head`, or let --ray auto start one here"
        )
    return address
