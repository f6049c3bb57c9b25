"""The best of each seed by evaluation, kept beside the checkpoints in a file of its own."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

from torch import Tensor

from rlgrad import checkpoints
from rlgrad.errors import UsageError
from rlgrad.store import Run

_OF_ALL = ("episodes.", "lanes.")  # beginnings of names of what acting has no need of
_TOLD = ("features", "actions", "observation_scale", "exploration_rate")


def _of_seed(run: Run, seed: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """One seed's share of a checkpoint, without environments and episodes."""
    if run.peer is not None:
        return {name: x for name, x in tensors.items() if name.startswith(f"{seed}/")}
    row = run.seeds.index(seed)
    own = {name: x for name, x in tensors.items() if not name.startswith(_OF_ALL)}
    return {name: x[row : row + 1] for name, x in own.items()}


def best_mean(path: Path) -> float | None:
    """Mean evaluation return of a best file; None: there is none that can be read."""
    if not path.exists():
        return None
    try:
        return float(checkpoints.read(path)[1]["mean"])
    except (UsageError, KeyError, TypeError, ValueError) as error:
        warnings.warn(f"{path.name} is replaced by the next evaluation: {error}", stacklevel=2)
        return None


def keep_best(run: Run, seed: int, checkpoint: Path, mean: float) -> bool:
    """Keep a seed's policy if no evaluation of it was better; among equals the first stays.

    The file holds the seed's learner (of a peer, what it needs to act), the env steps it had and
    its mean evaluation return, so all that reads a checkpoint reads it.

    Args:
        run: that trains.
        seed: one of the run's.
        checkpoint: that was evaluated.
        mean: undiscounted return, sampled; what is not finite is never the best.

    Returns:
        Whether it was written.

    Raises:
        DamagedError: where the checkpoint cannot be read.
        OSError: where the disk refuses.
    """
    path = run.best(seed)
    before = best_mean(path)
    if not math.isfinite(mean) or (before is not None and mean <= before):
        return False
    tensors, counters = checkpoints.read(checkpoint)
    about: dict[str, Any] = {key: counters[key] for key in _TOLD if key in counters}
    about["steps"] = [counters["steps"][run.seeds.index(seed)]]
    checkpoints.write(path, _of_seed(run, seed, tensors), {**about, "seeds": [seed], "mean": mean})
    return True


def find_checkpoint(run: Run, which: str | int = "last", seed: int | None = None) -> Path | None:
    """The checkpoint file that a user means.

    Args:
        run: as read back.
        which: "last", "best" by evaluation, or env steps as a file's name has them.
        seed: whose best; None: the run's first.

    Returns:
        Its path; None for "last": the newest that is whole, which whoever reads it finds.

    Raises:
        UsageError: where there is none such, with those that there are.
    """
    if which == "last":
        return None
    if which == "best":
        path = run.best(run.seeds[0] if seed is None else seed)
        if not path.is_file():
            raise UsageError(f"{run.path} has no {path.name}: it was not evaluated yet")
        return path
    if not isinstance(which, int) or isinstance(which, bool):
        raise UsageError(f"got {which!r}; expected last, best, or the env steps of a checkpoint")
    files = {int(each.stem.partition("-")[2]): each for each in run.checkpoints()}
    if which not in files:
        near = sorted(sorted(files, key=lambda step: abs(step - which))[:5])
        there = f"the nearest are at {', '.join(map(str, near))}" if near else "it has none yet"
        raise UsageError(f"{run.path} has no checkpoint at {which} env steps; {there}")
    return files[which]
