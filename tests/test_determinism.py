"""Training twice gives the same bits, in another process, place, thread and mood of torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from shipped import OWN, PEERS

from rlgrad.ambient import plain

HERE = Path(__file__).parent
OTHERWISE = {
    "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "MKL_DYNAMIC": "FALSE",
    "PYTHONHASHSEED": "4321", "PYTHONOPTIMIZE": "1", "TZ": "Asia/Tokyo", "LC_ALL": "C",
    "COLUMNS": "40",
}  # fmt: skip


def begun(folder, how, **environment):
    """A process that trains every agent, in a working directory of its own."""
    folder.mkdir()
    variables = {**os.environ, "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent}", **environment}
    command = [sys.executable, HERE / "training_bits.py", folder / "runs", how]
    nice = None if how == "plain" else lambda: os.nice(1)
    return subprocess.Popen(
        command, cwd=folder, env=variables, preexec_fn=nice, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_every_agent_trained_twice_gives_the_same_bits(tmp_path):
    first = begun(tmp_path / "one", "plain", PYTHONHASHSEED="1", OMP_NUM_THREADS="1")
    second = begun(tmp_path / "other", "disturbed", **OTHERWISE)
    one, other = (json.loads(process.communicate()[0]) for process in (first, second))
    assert list(one) == [*OWN, *PEERS]
    assert one == other
    assert len(set(one.values())) == len(one)  # and each of them trained in its own way


def flushes():
    """Whether denormal numbers are taken for zero."""
    return bool(torch.full((), 1e-40, dtype=torch.float32) == 0)


def settings():
    return (
        torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"), flushes(),
    )  # fmt: skip


@pytest.mark.parametrize("fails", [False, True])
def test_settings_of_torch_are_put_aside_and_put_back(fails):
    usual = (1, torch.float32, True, False, False, False)
    before = settings()
    try:
        torch.set_num_threads(2)
        torch.set_default_dtype(torch.float64)
        torch.set_flush_denormal(True)
        with torch.inference_mode(), torch.autocast("cpu"):
            own = settings()
            assert own == (2, torch.float64, False, True, True, True)
            with pytest.raises(KeyError) if fails else plain(), plain():
                assert settings() == usual
                if fails:
                    raise KeyError
            assert settings() == own
    finally:
        torch.set_num_threads(before[0])
        torch.set_default_dtype(before[1])
        torch.set_flush_denormal(before[-1])
    assert settings() == before
