"""``rlgrad.resume``: a run that was killed or stopped goes on; a finished one is extended."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rlgrad.ambient import plain
from rlgrad.callbacks.base import Callback
from rlgrad.callbacks.calling import check_callbacks, names
from rlgrad.captured.engine import captured
from rlgrad.cards import Resolved
from rlgrad.creating import card_text
from rlgrad.differing import check_callbacks_kept, check_versions, say_schedule
from rlgrad.display import Display
from rlgrad.errors import UsageError, nearest
from rlgrad.locking import Lock
from rlgrad.options import Options, checked
from rlgrad.output import check_own, to_disk, write_whole
from rlgrad.ranks.joining import check_alike, follow, join, led, listening, refuse
from rlgrad.ranks.one import Ranks
from rlgrad.recalling import Asked, about_of, options_of, resolved_of
from rlgrad.restoring import Found, newest, put, shared
from rlgrad.saving import Standing
from rlgrad.session import Session
from rlgrad.shrinking import shrinking
from rlgrad.store import Run
from rlgrad.trainer import Trainer
from rlgrad.training import finish
from rlgrad.versions import versions

if TYPE_CHECKING:
    from rlgrad.ranks.leading import Following

# What write_whole leaves where the process is killed inside it.
_HALVES = (
    ".card.toml.*", ".run.json.*", ".result.json.*", "checkpoints/.*-*.safetensors.*",
)  # fmt: skip


_FILES = ("card.toml", "run.json", "result.json", "metrics.jsonl", "lock")


def _write(run: Run, resolved: Resolved, about: dict[str, Any], start: Found | None) -> Run:
    """Make the directory that of a run in progress, up to the checkpoint and no further."""
    (run.path / "result.json").unlink(missing_ok=True)
    (run.path / "checkpoints").mkdir(exist_ok=True)
    for pattern in _HALVES:
        for half in run.path.glob(pattern):
            if half.is_symlink() or not half.is_dir():
                half.unlink()
    for path in run.checkpoints():
        if start is not None and path.name > start.path.name:
            path.unlink()
    extended = replace(run, config=resolved.config, vec=resolved.vec)
    if extended != run:
        text = card_text(resolved, run.seeds)
        write_whole(run.path / "card.toml", text.encode())
    write_whole(run.path / "run.json", json.dumps(about, indent=1).encode())
    return extended


def _check_own(run: Run) -> None:
    """Refuse a run where links would lead what is written out of its directory."""
    files = (*_FILES, *(f"checkpoints/{path.name}" for path in run.checkpoints()))
    check_own(run.path, files, ("checkpoints", *(f"seed-{seed}" for seed in run.seeds)))


def _say_where(display: Display, run: Run, trainer: Trainer, steps: int) -> None:
    """Say where training goes on."""
    left = "" if any(trainer.active) else "; nothing is left to train: a larger -n extends it"
    display.say(
        f"Going on with {run.path}, at {steps:,} of {trainer.config.total_timesteps:,} env "
        f"steps, on {trainer.where}{left}"
    )


def restart(
    name: str | Path | Run,
    total_timesteps: int | None = None,
    given: Mapping[str, Any] | None = None,
    env_modules: Sequence[str] = (),
    log_dir: str = "runs",
    display: Display | None = None,
    callbacks: Sequence[Callback] = (),
) -> Session | Following:
    """Check everything, then take a run's directory over, where its newest checkpoint stands.

    Args:
        name: path of the run, "latest", or a ``Run``.
        total_timesteps: a larger budget; None: the run's own.
        given: options that replace the run's own.
        env_modules: to import first, where the environment is not Gymnasium's.
        log_dir: where "latest" looks.
        display: what a person sees.
        callbacks: called while it trains; the same as before, or the run is not exact.

    Raises:
        UsageError: for anything the user can mend.
    """
    own = {key: value for key, value in (given or {}).items() if key in ("device", "rank_timeout")}
    ranks = join(checked(own))
    asked = Asked(name, total_timesteps, {"log_dir": log_dir, **(given or {})}, env_modules)
    with ExitStack() as undo:  # where it cannot go on, nothing stays open
        with ranks.alike():
            session = _gone_on(asked, display, check_callbacks(callbacks), ranks, undo)
        undo.pop_all()
    return session


def _gone_on(
    asked: Asked,
    display: Display | None,
    callbacks: Sequence[Callback],
    ranks: Ranks,
    undo: ExitStack,
) -> Session | Following:
    """As ``restart``, in one of the processes; ``undo`` takes what is to be released on failure."""
    run = asked.run(ranks)
    about, resolved, notes = about_of(run), resolved_of(run, asked.total), list[str]()
    options = options_of(about, resolved, asked.given, callbacks)
    refuse(resolved, options, ranks)
    torch.set_num_threads(1)
    lock = None
    if ranks.leads:
        _check_own(run)
        lock = Lock(run.path)
        undo.callback(lock.release)
    found = newest(run, notes) if ranks.leads else None
    found = shared(run, found, ranks)
    trainer = Trainer(resolved, run.seeds, options, ranks)
    undo.callback(trainer.close)
    if found is not None:
        put(trainer, run, found, notes)
    check_alike(trainer, resolved, options)
    engine = shrinking(captured(trainer, options.capture))
    if lock is None:
        run = replace(run, config=resolved.config)
        return follow(engine, run, ranks, options)
    standing = found.standing if found else Standing(evaluated=[-1] * len(run.seeds))
    check_versions(about, standing, notes)
    check_callbacks_kept(about, names(callbacks), standing, notes)
    say_schedule(trainer, run.config.total_timesteps, notes)
    steps = max(outcome.steps for outcome in trainer.outcomes)
    about = _with(about, options, standing, steps)
    with to_disk(run.path):
        run = _write(run, replace(resolved, vec=trainer.vec), about, found)
    display = display or Display(f"{run.agent} on {run.env_id}", options.quiet)
    _say_where(display, run, trainer, steps)
    for note in (*trainer.notes, *notes):
        display.say(f"note: {note}")
    start = standing, found.path if found else None
    engine = led(engine, ranks)
    session = Session(engine, run, display, options, lock, start, callbacks)
    session.beat = listening(engine, ranks, session.signals)
    return session


def _with(
    about: dict[str, Any], options: Options, standing: Standing, steps: int
) -> dict[str, Any]:
    """The run's description with this beginning in it."""
    began = {
        "at": steps,
        "command": sys.argv,
        "versions": versions(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    resumed = [*about["resumed"], began]
    return {**about, "options": asdict(options), "exact": standing.exact, "resumed": resumed}


@plain()
def resume(
    run: str | Path | Run,
    total_timesteps: int | None = None,
    *,
    env_modules: Sequence[str] = (),
    log_dir: str = "runs",
    callbacks: Sequence[Callback] = (),
    **options: Any,
) -> Run:
    """Go on with a run that was killed or stopped, or extend a finished one.

    It ends as an uninterrupted one would have, bit for bit on CPU; see docs/resuming.md.

    Args:
        run: path of the run, "latest", or a ``Run``.
        total_timesteps: a larger budget per seed; None: the run's own.
        env_modules: to import first, where the environment is not Gymnasium's.
        log_dir: where "latest" looks.
        callbacks: the same as before, in the same order; what they knew is restored.
        **options: fields of ``Options`` that replace the run's own.

    Returns:
        The finished ``Run``.

    Raises:
        UsageError: for bad input, before anything is written.
        KeyboardInterrupt: after Ctrl-C; SystemExit: after SIGTERM. What was trained is kept.
    """
    known = {field.name for field in fields(Options)} - {"log_dir"}
    for key in options:
        if key not in known:
            raise UsageError(f"unknown argument {key!r}; {nearest(key, known)}")
    session = restart(run, total_timesteps, options, env_modules, log_dir, callbacks=callbacks)
    return finish(session)
