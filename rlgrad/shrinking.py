"""Seeds that are done leave the batch, so that the others do not pay for them.

The last of many seeds often needs half as many env steps again as the median. A seed's bits do not
depend on its company, so those that still train go on in a smaller trainer to the same end. Done
seeds leave at once: a run that is resumed then finds their environments where it left them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rlgrad.clock import Clock, Seconds
from rlgrad.engine import Engine, Watch
from rlgrad.infos import Taken
from rlgrad.restoring import stand
from rlgrad.trainer import Trainer


def shrinking(engine: Engine) -> Engine:
    """The engine, without its seeds that are done where that saves time: a simulator on the CPU.

    A captured program is made for one number of seeds, and Gymnasium's environments could only be
    put into a smaller batch by playing their episodes again. Processes that share a run would have
    to do so at the same moment.
    """
    if not isinstance(engine, Trainer) or len(engine.seeds) == 1 or engine.ranks.size > 1:
        return engine
    simulated = engine.lanes.simulator is not None and engine.device.type == "cpu"
    return Shrinking(engine) if simulated else engine


class _Until:
    """A watch that also stops when something is due."""

    def __init__(self, watch: Watch, due: Callable[[], bool]) -> None:
        self.wants, self.after = watch.wants, watch.after
        self._watch, self._due = watch, due

    @property
    def stopped(self) -> bool:
        """Whether training is to end, or to pause."""
        return self._watch.stopped or self._due()


def _rows(x: Tensor, rows: Sequence[int], seeds: int) -> Tensor:
    """Seeds' parts of ``[S, ...]``, or of ``[S x N, ...]``, in memory of their own."""
    chosen = x.reshape(seeds, -1, *x.shape[1:])[list(rows)]
    return chosen.reshape(-1, *x.shape[1:])


class Shrinking:
    """An ``Engine``: a trainer of all seeds at first, then of ever fewer.

    Args:
        trainer: at its start, or where a checkpoint put it; on a simulator.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.outcomes, self.seeds = trainer, trainer.outcomes, trainer.seeds
        self.solved_at, self.together = trainer.solved_at, trainer.together
        self.notes, self.where, self.vec = trainer.notes, trainer.where, trainer.vec
        self.masked = trainer.masked
        self.rows = list(range(len(self.seeds)))
        """Numbers of the seeds that the present trainer has."""
        self._left: dict[str, Tensor] = {}
        self._numbers: dict[int, Mapping[str, float]] = {}

    def _due(self) -> bool:
        """Whether some of the trainer's seeds are done, and some are not."""
        return 0 < sum(self.trainer.active) < len(self.rows)

    def run(self, watch: Watch) -> None:
        """Train all seeds to their end, or until the watch stops it."""
        until = _Until(watch, self._due)
        while any(self.trainer.active) and not watch.stopped:
            if self._due():
                self._shrink()
            self.trainer.run(until)

    def _shrink(self) -> None:
        """Leave the seeds that are done where they stand; the others go on in a trainer of theirs.

        It counts as training: who trains one seed alone does not pay for it.
        """
        old = self.trainer
        with old.clock:
            self._move(old)
        # A clock of its own: that of the old trainer would keep it alive.
        self.trainer.clock = Clock(old.clock.read(), self.trainer.beside)

    def _move(self, old: Trainer) -> None:
        state, S = old.state()[0], len(self.rows)
        self._left = self._whole(state)
        within = [i for i, on in enumerate(old.active) if on]
        self._numbers |= {self.rows[i]: old.numbers(i) for i in range(S) if i not in within}
        self.rows = [self.rows[i] for i in within]
        options = replace(old.options, device="cpu")
        self.trainer = new = Trainer(old.resolved, [self.seeds[i] for i in self.rows], options)
        new.outcomes = [self.outcomes[i] for i in self.rows]
        new.iteration = old.iteration
        new.measured = {tag: [x[i] for i in within] for tag, x in old.measured.items()}
        stand(new, {name: _rows(x, within, S) for name, x in state.items()})
        old.close()

    def _whole(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A trainer's tensors as those of all seeds, with what the others left."""
        if len(self.rows) == len(self.seeds):
            return {name: x.clone() for name, x in state.items()}
        S, found = len(self.seeds), {}
        for name, x in state.items():
            whole = self._left[name].clone()
            parts = x.reshape(len(self.rows), -1, *x.shape[1:])
            whole.view(S, -1, *x.shape[1:])[torch.tensor(self.rows)] = parts
            found[name] = whole
        return found

    def numbers(self, i: int) -> Mapping[str, float]:
        """As ``Trainer.numbers``; of a seed that is done, as they were."""
        return self._numbers[i] if i in self._numbers else self.trainer.numbers(self.rows.index(i))

    def seconds(self, i: int | None = None) -> Seconds:
        """As ``Trainer.seconds``."""
        return self.trainer.seconds()

    def infos(self) -> list[Taken]:
        """As ``Trainer.infos``; a simulator has none."""
        return self.trainer.infos()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """As ``Trainer.state``, of all seeds: a run may go on from it in either way."""
        tensors, counters = self.trainer.state()
        if len(self.rows) == len(self.seeds):
            return tensors, counters
        of_all = {
            "steps": [outcome.steps for outcome in self.outcomes],
            "seeds": self.seeds,
            "outcomes": [outcome.plain() for outcome in self.outcomes],
        }
        return self._whole(tensors), {**counters, **of_all}

    def close(self) -> None:
        """Release the environments."""
        self.trainer.close()
