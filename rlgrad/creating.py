"""A new run's directory: its card, and what was asked for on which machine."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tomli_w

from rlgrad.cards import Resolved
from rlgrad.errors import UsageError
from rlgrad.naming import safe_name
from rlgrad.options import Options
from rlgrad.output import fresh_folder, write_whole
from rlgrad.peer_cards import tables
from rlgrad.store import FORMAT, Run
from rlgrad.versions import versions


def card_text(resolved: Resolved, seeds: Sequence[int]) -> str:
    """The resolved card as TOML: enough to train the same again."""
    env: dict[str, Any] = {
        "id": resolved.env.id,
        "simulator": resolved.env.simulator,
        "kwargs": resolved.env.kwargs,
        "modules": list(resolved.env.modules),
    }
    if resolved.vec:
        env["vec"] = resolved.vec
    if resolved.env.masked:
        env["action_masks"] = True
    if resolved.env.solved_at is not None:
        env["solved_at"] = resolved.env.solved_at
    return tomli_w.dumps(
        {
            "format": FORMAT,
            "agent": resolved.agent,
            "seeds": list(seeds),
            "environment": env,
            **tables(resolved.config, resolved.peer),
        }
    )


def create(
    resolved: Resolved, seeds: Sequence[int], options: Options, callbacks: Sequence[str] = ()
) -> Run:
    """Make a run's directory with its card, command and options.

    Args:
        resolved: what is trained.
        seeds: on which seeds.
        options: how.
        callbacks: names of those that watch it.

    Raises:
        UsageError: where the directory cannot be written.
    """
    log_dir = Path(options.log_dir)
    parent = log_dir / safe_name(resolved.env.id) / safe_name(resolved.agent)
    try:
        path = fresh_folder(parent)
        (path / "checkpoints").mkdir()
        about = {
            "command": sys.argv,
            "versions": versions(),
            "machine": f"{platform.system()} {platform.machine()}",
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "notes": list(resolved.notes),
            "tuning": resolved.tuning,
            "options": asdict(options),
            "callbacks": list(callbacks),
        }
        write_whole(path / "run.json", json.dumps(about, indent=1).encode())
        # The last: a folder with a card is a run, which must be one that can be gone on from.
        write_whole(path / "card.toml", card_text(resolved, seeds).encode())
    except OSError as error:
        raise UsageError(
            f"cannot write runs to {log_dir}: {error.strerror or error}; "
            "choose another directory with --log-dir"
        ) from None
    return run_of(resolved, seeds, path)


def run_of(resolved: Resolved, seeds: Sequence[int], path: Path) -> Run:
    """A run as ``create`` makes it, in a directory that is there."""
    return Run(
        path,
        resolved.env.id,
        resolved.agent,
        tuple(seeds),
        resolved.config,
        resolved.env.kwargs,
        resolved.env.modules,
        resolved.peer,
        resolved.env.simulator,
        resolved.env.solved_at,
        resolved.vec,
        resolved.env.masked,
    )
