"""What tests of whole runs share: processes of ``rlgrad``, how they end, what they leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rlgrad.display import Display

ROOT = Path(__file__).resolve().parent.parent


def started(*arguments: Any, **options: Any) -> subprocess.Popen[str]:
    """``rlgrad`` with those arguments in a process of its own; options are of ``Popen``."""
    command = [sys.executable, "-m", "rlgrad", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, text=True, **options)


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> None:
    """Fail unless tensors are the same by name, bit for bit."""
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def strict(text: str) -> Any:
    """The one JSON document in a text; NaN and Infinity are not JSON."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


class KilledError(BaseException):
    """Ends a process's work between two iterations, as SIGKILL would."""


class Dying(Display):
    """Raises at the n-th iteration; nothing after it is done."""

    def __init__(self, iterations):
        super().__init__("", quiet=True)
        self.left = iterations

    def update(self, status):
        self.left -= 1
        if self.left == 0:
            raise KilledError
