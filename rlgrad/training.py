"""``rlgrad.train``: from names and numbers to a finished run."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rlgrad.ambient import plain
from rlgrad.callbacks.base import Callback
from rlgrad.callbacks.calling import check_callbacks, names, wanted_infos
from rlgrad.captured.engine import captured
from rlgrad.cards import Resolved, resolve
from rlgrad.config import FIELDS
from rlgrad.creating import create, run_of
from rlgrad.display import Display
from rlgrad.engine import Engine
from rlgrad.errors import UsageError, nearest
from rlgrad.finding import import_module
from rlgrad.locking import Lock
from rlgrad.options import Options, checked, parse_seeds
from rlgrad.ranks.joining import check_alike, follow, join, led, listening, refuse
from rlgrad.ranks.one import ONE, Ranks
from rlgrad.session import Session
from rlgrad.shrinking import shrinking
from rlgrad.store import Run
from rlgrad.trainer import Trainer

if TYPE_CHECKING:
    from rlgrad.ranks.leading import Following


def engine(
    resolved: Resolved, seeds: Sequence[int], options: Options, ranks: Ranks = ONE
) -> Engine:
    """What trains: rlgrad's own trainer, or Stable-Baselines3."""
    if resolved.peer is None:
        trainer = Trainer(resolved, seeds, options, ranks)
        check_alike(trainer, resolved, options)
        return shrinking(captured(trainer, options.capture))
    if options.capture == "on":
        raise UsageError(f"got --capture on, and {resolved.agent} is a peer; expected auto or off")
    if options.vec != "auto":
        raise UsageError(
            f"got --vec {options.vec}, and {resolved.agent} steps its environments as "
            "Stable-Baselines3 does; expected auto"
        )
    from rlgrad.peers.engine import PeerEngine

    return PeerEngine(resolved, resolved.peer, seeds, options)


def start(
    resolved: Resolved,
    seeds: Sequence[int],
    options: Options,
    display: Display | None = None,
    callbacks: Sequence[Callback] = (),
) -> Session | Following:
    """Check everything, then make the run directory: bad input leaves nothing behind.

    Args:
        resolved: what is trained.
        seeds: on which seeds.
        options: how.
        display: what a person sees.
        callbacks: called while it trains.

    Returns:
        A session; of a torchrun, one that follows in all processes but the first.

    Raises:
        UsageError: for anything the user can mend.
    """
    ranks = join(options)
    callbacks = check_callbacks(callbacks)
    options = replace(options, log_info=wanted_infos(callbacks, options.log_info))
    torch.set_num_threads(1)  # small networks: a second thread only waits
    with ExitStack() as undo:  # where it cannot begin, nothing stays open
        with ranks.alike():
            session = _begun(resolved, seeds, options, display, callbacks, ranks, undo)
        undo.pop_all()
    return session


def _begun(
    resolved: Resolved,
    seeds: Sequence[int],
    options: Options,
    display: Display | None,
    callbacks: Sequence[Callback],
    ranks: Ranks,
    undo: ExitStack,
) -> Session | Following:
    """As ``start``, in one of the processes; ``undo`` takes what is to be released on failure."""
    for module in resolved.env.modules:
        import_module(module)
    refuse(resolved, options, ranks)
    trainer = engine(resolved, seeds, options, ranks)
    undo.callback(trainer.close)
    notes = *resolved.notes, *trainer.notes
    card = replace(resolved.env, masked=trainer.masked)
    resolved = replace(resolved, env=card, notes=notes, vec=trainer.vec)
    if not ranks.leads:
        return follow(trainer, run_of(resolved, seeds, Path(ranks.told(""))), ranks, options)
    run = create(resolved, seeds, options, names(callbacks))
    lock = Lock(run.path)
    undo.callback(lock.release)
    ranks.told(str(run.path))
    name, env = resolved.agent, resolved.env.id
    count = f"{len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]}"
    display = display or Display(f"{name} on {env}", options.quiet)
    display.say(f"Training {name} on {env}, {count}, on {trainer.where}")
    for note in resolved.notes:
        display.say(f"note: {note}")
    trainer = led(trainer, ranks)
    session = Session(trainer, run, display, options, lock, callbacks=callbacks)
    session.beat = listening(trainer, ranks, session.signals)
    return session


@plain()
def train(
    env: str,
    agent: str | None = None,
    *,
    estimator: str | None = None,
    seeds: int | str | Sequence[int] = 1,
    env_kwargs: Mapping[str, Any] | None = None,
    env_modules: Sequence[str] = (),
    peer_arguments: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
    **overrides: Any,
) -> Run:
    """Train an agent.

    Args:
        env: Gymnasium id, also ``module:Env-v0``.
        agent: name of an agent card, or ``sb3:`` and the Python path of an algorithm of
            Stable-Baselines3; None: the estimator's card, or actor-critic.
        estimator: name of an estimator, put into the agent's card.
        seeds: a count, a range "0-9", or a sequence of seeds, trained together.
        env_kwargs: for the environment's constructor.
        env_modules: to import first, where the environment is not Gymnasium's.
        peer_arguments: for the algorithm of a peer, such as ``{"learning_rate": 1e-3}``.
        callbacks: called while it trains, see ``rlgrad.callbacks``.
        **overrides: any field of ``Config`` (such as ``total_timesteps``) or of ``Options``.

    Returns:
        The finished ``Run``; ``rlgrad.load(run)`` gives the trained agent.

    Raises:
        UsageError: for bad input, before anything is written.
        KeyboardInterrupt: after Ctrl-C; SystemExit: after SIGTERM. What was trained is kept.
    """
    fields = {field.name for field in dataclasses.fields(Options)}
    for key in overrides:
        if key not in fields and key not in FIELDS:
            raise UsageError(f"unknown argument {key!r}; {nearest(key, fields | FIELDS.keys())}")
    options = checked({k: v for k, v in overrides.items() if k in fields})
    flags = {k: v for k, v in overrides.items() if k not in fields}
    resolved = resolve(env, agent, estimator, flags, env_kwargs, env_modules, peer_arguments)
    session = start(resolved, parse_seeds(seeds), options, callbacks=callbacks)
    return finish(session)


def finish(session: Session | Following) -> Run:
    """Train to the end; a signal that stopped it is passed on.

    Raises:
        KeyboardInterrupt: after Ctrl-C; SystemExit: after SIGTERM. What was trained is kept.
    """
    session.go()
    if session.signal == signal.SIGINT:  # or a caller's loop would go on to its next training
        raise KeyboardInterrupt(f"stopped; what was trained is kept in {session.run.path}")
    if session.signal:
        raise SystemExit(128 + session.signal)
    return session.run
