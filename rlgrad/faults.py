"""What a fault tells: what happened, where training stood, what is kept and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor

from rlgrad.engine import diverged
from rlgrad.errors import TracedError, UsageError, is_out_of_memory, out_of_memory
from rlgrad.output import write_whole
from rlgrad.rollout import Rollout
from rlgrad.store import Run


class FaultError(UsageError):
    """Training ended early; the message says where it stood and what is kept."""


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """Write the traceback of a fault in others' code to a file of ``folder``, and say so."""
    try:
        yield
    except TracedError as error:
        if error.details:
            path = folder / error.file
            with suppress(OSError):
                write_whole(path, error.details.encode())
                error.kept = str(path)
        raise


class Faults:
    """Says of whatever ends training early where it stood, and which checkpoint is kept.

    Args:
        run: that trains.
        stands: gives the env steps of the furthest seed, and the last checkpoint, None: of none.
    """

    def __init__(self, run: Run, stands: Callable[[], tuple[int, Path | None]]) -> None:
        self.run, self._stands = run, stands

    def _kept(self) -> str:
        steps, checkpoint = self._stands()
        stood = f"training stood at {steps:,} env steps"
        if checkpoint is None:
            return f"{stood}, there is no checkpoint yet"
        if not checkpoint.exists():
            return f"{stood}, and {checkpoint.name} is gone"
        how = "" if self.run.peer is not None else f"; rlgrad resume {self.run.path} goes on there"
        return f"{stood}, {checkpoint.name} is kept{how}"

    @contextmanager
    def writing(self) -> Iterator[None]:
        """What the disk refuses, as a ``FaultError``."""
        try:
            yield
        except OSError as error:
            what = f"cannot write to {self.run.path}: {error.strerror or error}"
            raise FaultError(f"{what}; {self._kept()}") from None

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Any other end: one line where no program is at fault, else a note below the traceback."""
        try:
            yield
        except FaultError:
            raise
        except UsageError as error:
            raise FaultError(f"{error}; {self._kept()}") from error
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"stopped at once; {self._kept()}") from None
        except Exception as error:
            if is_out_of_memory(error):
                raise FaultError(f"{out_of_memory(error)}; {self._kept()}") from None
            error.add_note(f"rlgrad: {self._kept()}")
            raise


def why_failed(rollout: Rollout, seed: int, steps: int) -> str:
    """What to tell of a seed whose update left numbers that are not finite.

    Args:
        rollout: that it was updated from, of this seed alone.
        seed: its name.
        steps: its env steps before the rollout.
    """
    taken = rollout.valid[0].sum(1).cumsum(0).tolist()
    for name, x, later in (
        ("reward", rollout.reward[0].unsqueeze(-1), 0),
        ("observation", torch.cat([rollout.observation[0], rollout.last]), -1),
        ("observation", None if rollout.final is None else rollout.final[0], 0),
    ):
        found = None if x is None else _first_bad(x)
        if found is not None:
            t, lane, value = found
            after = steps + (taken[t + later] if t + later >= 0 else 0)
            return (
                f"the environment gave the {name} {value} in lane {lane} of seed {seed}, after "
                f"{after:,} env steps"
            )
    return diverged(steps + taken[-1])


def _first_bad(x: Tensor) -> tuple[int, int, float] | None:
    """(row, lane, value) of the first number ``[T, N, F]`` that is not finite; None: all are."""
    bad = (~x.isfinite()).nonzero()
    if not len(bad):
        return None
    t, lane, feature = bad[0].tolist()
    return t, lane, float(x[t, lane, feature])
