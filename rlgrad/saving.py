"""When a run's state is stored, and what of the session around its engine is stored with it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rlgrad import store
from rlgrad.engine import Engine
from rlgrad.forms import SESSION
from rlgrad.infos import Infos
from rlgrad.log import Log
from rlgrad.options import Options
from rlgrad.reading import conform
from rlgrad.store import Run

EVERY = 30.0  # seconds between checkpoints, unless --save-freq says other
SHARE = 0.02  # of the time that they may take then
KEPT = 3  # of those that nobody asked for


@dataclass
class Standing:
    """What a session must know to go on, beside its engine."""

    record: int = 0
    """Bytes of metrics.jsonl when it was stored."""
    pending: list[int] = field(default_factory=list)
    """Numbers of the seeds whose evaluation is due where they stand."""
    evaluated: list[int] = field(default_factory=list)
    """Env steps at which each seed was last evaluated; -1: never."""
    exact: bool = True
    """Whether all so far is, bit for bit, what one process would have given."""

    infos: list[dict[str, list[int | float]]] = field(default_factory=list)
    """See ``Infos.state``."""
    callbacks: list[dict[str, Any]] = field(default_factory=list)
    """See ``Callbacks.states``."""

    @classmethod
    def of(cls, counters: Mapping[str, Any], seeds: int) -> Standing:
        """As a checkpoint's counters have it.

        Raises:
            KeyError, TypeError, ValueError: where they do not.
        """
        conform(counters["session"], SESSION, "its session")
        found = cls(**counters["session"])
        known = len(found.evaluated) == seeds and set(found.pending) <= set(range(seeds))
        if not known or found.record < 0:
            raise ValueError("it is of no session with these seeds")
        Infos((), seeds).load(found.infos)
        return found


class Saver:
    """Writes checkpoints when they are due.

    Args:
        engine: whose state is stored.
        run: where.
        options: how often, and how many are kept.
        log: whose length is stored with it.
        standing: of the session.
        path: of the checkpoint that the engine stands at; None: of none.
    """

    def __init__(
        self,
        engine: Engine,
        run: Run,
        options: Options,
        log: Log,
        standing: Standing,
        path: Path | None = None,
    ) -> None:
        self.engine, self.run, self.options, self.log = engine, run, options, log
        self.standing, self.path = standing, path
        self._saved = None if path is None else self._now()
        self._next = time.monotonic() + EVERY

    def _now(self) -> tuple[Any, ...]:
        outcomes = self.engine.outcomes
        return [(o.steps, o.status) for o in outcomes], list(self.standing.pending)

    def due(self, crossed: bool) -> bool:
        """Whether it is time for a checkpoint.

        Args:
            crossed: whether a seed's env steps crossed a multiple of ``--save-freq``.
        """
        return crossed if self.options.save_freq else time.monotonic() >= self._next

    def save(self) -> None:
        """Write a checkpoint, unless nothing has moved since the last."""
        if self._now() == self._saved:
            return
        began = time.monotonic()
        self.standing.record = self.log.sync()
        tensors, counters = self.engine.state()
        counters = {**counters, "session": asdict(self.standing)}
        keep = self.options.keep_last or (0 if self.options.save_freq else KEPT)
        self.path = store.save_checkpoint(self.run, tensors, counters, keep)
        self._saved, now = self._now(), time.monotonic()
        self._next = now + max(EVERY, (now - began) / SHARE)
