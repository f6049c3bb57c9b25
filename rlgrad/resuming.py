"""``rlgrad.resume``: a run that was killed or stopped goes on; a finished one is extended."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch

from rlgrad.ambient import plain
from rlgrad.callbacks.base import Callback
from rlgrad.callbacks.calling import check_callbacks, names, wanted_infos
from rlgrad.captured.engine import captured
from rlgrad.card_files import EnvCard
from rlgrad.cards import Resolved
from rlgrad.choosing import same_bits
from rlgrad.creating import card_text
from rlgrad.differing import check_callbacks_kept, check_versions, say_schedule
from rlgrad.display import Display
from rlgrad.errors import UsageError, nearest
from rlgrad.forms import ABOUT
from rlgrad.loading import import_allowed
from rlgrad.locking import Lock
from rlgrad.options import Options, checked
from rlgrad.output import check_own, to_disk, write_whole
from rlgrad.reading import conform, read_json
from rlgrad.restoring import Found, newest, put
from rlgrad.saving import Standing
from rlgrad.session import Session
from rlgrad.store import Run, find_run, read_run
from rlgrad.trainer import Trainer
from rlgrad.training import finish
from rlgrad.versions import versions

# What write_whole leaves where the process is killed inside it.
_HALVES = (
    ".card.toml.*", ".run.json.*", ".result.json.*", "checkpoints/.*-*.safetensors.*",
)  # fmt: skip


_FILES = ("card.toml", "run.json", "result.json", "metrics.jsonl", "lock")
_OF_A_PROCESS = ("quiet", "log_dir")  # options that do not last


def _resolved(run: Run, total: int | None) -> Resolved:
    """What the run's card says, with another budget if there is one."""
    have = run.config.total_timesteps
    if total is not None and total < have:
        raise UsageError(f"got -n {total}; expected at least the {have} of {run.path}")
    env = EnvCard(
        run.env_id,
        run.path / "card.toml",
        simulator=run.simulator,
        solved_at=run.solved_at,
        kwargs=run.env_kwargs,
        modules=run.env_modules,
        masked=run.masked,
    )
    config = replace(run.config, total_timesteps=total or have)
    return Resolved(env, run.agent, config, (), vec=run.vec)


def _about(run: Run) -> dict[str, Any]:
    path = run.path / "run.json"
    try:
        about = read_json(path)
        conform(about, ABOUT)
        return {**about, "resumed": about.get("resumed", [])}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as a run's description: {error}") from None


def _vec(resolved: Resolved, asked: str) -> dict[str, str]:
    """The option that steps the environments as before, or by an engine with the same bits.

    Measuring again could choose another than the run's card tells.
    """
    card, chosen = resolved.env, resolved.vec
    if not chosen:
        return {}
    if asked in ("", "auto"):
        return {"vec": "auto" if chosen == "simulator" else chosen}
    if same_bits(card, asked) != same_bits(card, chosen):
        raise UsageError(
            f"got --vec {asked}, and {chosen} steps the environments of this run, with other "
            "episodes; leave --vec out, or train again"
        )
    return {"vec": asked}


def _options(
    about: Mapping[str, Any],
    resolved: Resolved,
    given: Mapping[str, Any],
    callbacks: Sequence[Callback],
) -> Options:
    """The run's own options, but for those that are given."""
    own = {key: value for key, value in about["options"].items() if key not in _OF_A_PROCESS}
    options = checked({**own, **given, **_vec(resolved, given.get("vec", ""))})
    return replace(options, log_info=wanted_infos(callbacks, options.log_info))


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
) -> Session:
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
    run = read_run(name.path if isinstance(name, Run) else find_run(name, log_dir))
    if run.peer is not None:
        raise UsageError(
            f"{run.path} is of the peer {run.agent[:80]}: Stable-Baselines3 does not store all "
            "that it would need to go on; train it again"
        )
    import_allowed(run, env_modules)
    about, resolved, notes = _about(run), _resolved(run, total_timesteps), list[str]()
    callbacks = check_callbacks(callbacks)
    options = _options(about, resolved, {"log_dir": log_dir, **(given or {})}, callbacks)
    torch.set_num_threads(1)
    _check_own(run)
    lock = Lock(run.path)
    trainer = None
    try:
        found = newest(run, notes)
        trainer = Trainer(resolved, run.seeds, options)
        if found is not None:
            put(trainer, run, found, notes)
        engine = captured(trainer, options.capture)
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
        return Session(engine, run, display, options, lock, start, callbacks)
    except BaseException:
        if trainer is not None:
            trainer.close()
        lock.release()
        raise


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
