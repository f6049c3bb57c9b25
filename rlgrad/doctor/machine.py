"""The machine, the folder of runs, and a run as short as can be."""

from __future__ import annotations

import platform
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from rlgrad.cores import cores
from rlgrad.errors import raised


def machine() -> dict[str, Any]:
    """System, cores, threads of torch, CUDA devices; without torch what can be told."""
    told: dict[str, Any] = {
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "cores": cores(),
    }
    try:
        import torch
    except Exception:
        return told
    cuda = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    devices = [
        f"cuda:{i} {torch.cuda.get_device_name(i)}, "
        f"{torch.cuda.get_device_properties(i).total_memory / 2**30:.0f} GiB"
        for i in cuda
    ]
    return {**told, "torch_threads": torch.get_num_threads(), "devices": ["cpu", *devices]}


def writable(log_dir: str) -> str:
    """What keeps runs from being written below a folder; empty: nothing. Leaves no trace."""
    folder = Path(log_dir).absolute()
    there = next(each for each in (folder, *folder.parents) if each.exists())
    if not there.is_dir():
        return f"{there} is no folder"
    try:
        with tempfile.TemporaryFile(dir=there):
            return ""
    except OSError as error:
        return f"{there}: {error.strerror or error}"


def trained() -> dict[str, Any]:
    """One rollout of training, evaluated and stored, in a folder that is removed again.

    Returns:
        ``ok``; ``seconds``, start-up included; ``error`` in one line, or empty.
    """
    began, error = time.perf_counter(), ""
    try:
        from rlgrad.training import train

        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = train(
                "CartPole-v1", "relax", total_timesteps=1, eval_episodes=1, quiet=True,
                log_dir=folder,
            )  # fmt: skip
            status = run.result()["seeds"][0]["status"]
            error = "" if status == "finished" else f"the run ended as {status}"
    except Exception as fault:
        error = raised(fault)
    return {"ok": not error, "seconds": time.perf_counter() - began, "error": error}
