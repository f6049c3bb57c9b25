"""The real TensorBoard on loopback, read through its HTTP data API.

with serving(logdir) as get:
    get("/data/plugin/scalars/tags")  # JSON
    get("/data/plugin/hparams/experiment", {})  # with a body: POST
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_ENTRY = "import sys; from tensorboard.main import run_main; sys.exit(run_main())"
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy
_PATIENCE = 180.0  # seconds; a loaded machine takes long to import TensorBoard


def fetch(address: str, body: Any = None) -> bytes:
    """GET, or POST of a JSON body."""
    data = None if body is None else json.dumps(body).encode()
    kind = {"Content-Type": "application/json"}
    request = urllib.request.Request(address, data=data, headers=kind)
    with _DIRECT.open(request, timeout=_PATIENCE) as answer:
        return answer.read()


def _address(said: Path, server: subprocess.Popen[bytes]) -> str:
    """Where TensorBoard says that it listens; its port is of its own choice."""
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        text = said.read_text("utf-8", errors="replace")
        if found := re.search(r"http://(?:localhost|127\.0\.0\.1):(\d+)/", text):
            return f"http://127.0.0.1:{found[1]}"
        assert server.poll() is None, f"TensorBoard ended with {server.returncode}: {text}"
        time.sleep(0.1)
    raise AssertionError(f"TensorBoard does not say where it listens: {text}")


@contextmanager
def serving(logdir: Path) -> Iterator[Callable[..., Any]]:
    """Serve a folder that is complete; yields ``get(path, body=None, query=None, raw=False)``."""
    said = logdir.parent / f"{logdir.name}-tensorboard.txt"
    at = ("--logdir", str(logdir), "--port", "0", "--host", "127.0.0.1")
    # Everything is read, once, before it answers: no test waits for what is half loaded.
    once = ("--load_fast=false", "--reload_task=blocking", "--reload_interval=0")
    command = [sys.executable, "-c", _ENTRY, *at, *once]
    with said.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        address = _address(said, server)

        def get(
            path: str,
            body: Any = None,
            query: Mapping[str, str] | None = None,
            raw: bool = False,
        ) -> Any:
            words = f"?{urllib.parse.urlencode(query)}" if query else ""
            data = fetch(f"{address}{path}{words}", body)
            return data if raw else json.loads(data)

        yield get
    finally:
        server.kill()
        server.wait()
