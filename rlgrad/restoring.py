"""The checkpoint that a run goes on from, and a trainer put where it stands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from rlgrad import store
from rlgrad.checkpoints import DamagedError
from rlgrad.clock import Clock, Seconds
from rlgrad.engine import Outcome
from rlgrad.errors import UsageError, shown
from rlgrad.forms import STANDING, record
from rlgrad.places import take_places
from rlgrad.preflight import fitting
from rlgrad.ranks.one import Ranks
from rlgrad.reading import conform
from rlgrad.saving import Standing
from rlgrad.store import Run
from rlgrad.trainer import Trainer


class Found(NamedTuple):
    """The checkpoint to go on from."""

    path: Path
    tensors: dict[str, Tensor]
    counters: dict[str, Any]
    standing: Standing


def newest(run: Run, notes: list[str]) -> Found | None:
    """The newest checkpoint that is whole, with a record as long as it says; None: there is none.

    Raises:
        UsageError: where there are some and none of them will do.
    """
    rows, files = run.path / "metrics.jsonl", run.checkpoints()
    length = rows.stat().st_size if rows.is_file() else 0
    for path in reversed(files):
        try:
            tensors, counters = store.load_checkpoint(path)
            standing = Standing.of(counters, len(run.seeds))
            if standing.record > length:
                raise DamagedError(f"{rows}: it ends before {path.name} was written")
        except DamagedError as error:
            notes.append(f"left out {path.name}: {error}")
        except (KeyError, TypeError, ValueError):
            raise UsageError(
                f"{path} does not say enough to go on from; it can be evaluated, or train again"
            ) from None
        else:
            _check_record(run, standing.record)
            return Found(path, tensors, counters, standing)
    if files:
        raise UsageError(f"{run.path} has no checkpoint that is whole: {'; '.join(notes)}")
    return None


def shared(run: Run, found: Found | None, ranks: Ranks) -> Found | None:
    """What the leader has found, read by all of its processes."""
    name = ranks.told(found.path.name if found is not None else "")
    if ranks.leads or not name:
        return found
    path = run.path / "checkpoints" / name
    tensors, counters = store.load_checkpoint(path)
    return Found(path, tensors, counters, Standing.of(counters, len(run.seeds)))


def _check_record(run: Run, length: int) -> None:
    """Refuse a record whose first bytes, which stay, are no rows of the run's seeds."""
    path = run.path / "metrics.jsonl"
    try:
        for _ in record(path, run.seeds, length) if length else ():
            pass
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: it cannot be gone on from: {error}") from None


def _restore(trainer: Trainer, found: Found) -> int:
    """Put a trainer where ``state`` found one; returns how many lanes start new episodes."""
    path, tensors, counters, _ = found
    tensors = trainer.ranks.own(tensors)
    like, total = trainer.learner.state_dict(), trainer.config.total_timesteps
    fit = {k: fitting(path, k, tensors.get(k), x.dtype, x.shape) for k, x in like.items()}
    trainer.iteration = int(counters["iteration"])
    trainer.outcomes = [Outcome.from_plain(each, total) for each in counters["outcomes"]]
    before = Seconds(*counters["seconds"]) if trainer.ranks.leads else None
    trainer.clock = Clock(before, trainer.beside)
    return stand(trainer, {**tensors, **fit})


def stand(trainer: Trainer, tensors: Mapping[str, Tensor]) -> int:
    """Give a trainer at its iteration the tensors of ``state``.

    Returns:
        How many lanes start new episodes.
    """
    trainer.learner.load_state_dict({k: tensors[k] for k in trainer.learner.state_dict()})
    trainer.episodes.load(tensors)
    # Before whole episodes all lanes are reset; standing here once shows that they can be trusted.
    # A simulator's noise goes on; other lanes, where they start anew, take seeds of their own.
    seeds = trainer.lane_seeds(0 if trainer.lanes.simulator else trainer.iteration)
    trainer.observation, mine = take_places(trainer.lanes, tensors, seeds)
    same = trainer.ranks.flags(mine)
    trainer.episodes.carry[:, ~same.reshape(len(trainer.seeds), -1)] = 0.0
    return int((~same).sum())


def put(trainer: Trainer, run: Run, found: Found, notes: list[str]) -> None:
    """Put the trainer where the checkpoint stands; what cannot be exact is said and marked."""
    try:
        conform(found.counters, STANDING, "the checkpoint")
        if found.counters["seeds"] != list(run.seeds):
            raise ValueError(f"its seeds are {shown(found.counters['seeds'])}")
        if [row["seed"] for row in found.counters["outcomes"]] != list(run.seeds):
            raise ValueError("its outcomes are of other seeds")
        if not 0 <= found.counters["iteration"] < 1 << 32:  # what a stream can number
            raise ValueError(f"its iteration is {found.counters['iteration']}")
        lost = _restore(trainer, found)
    except UsageError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
        raise UsageError(f"{found.path}: cannot be gone on from: {error!r}") from None
    device, lanes = found.counters["device"], len(run.seeds) * run.config.num_envs
    if lost:
        found.standing.exact = False
        notes.append(
            f"{run.env_id} could not be put where it stood in {lost} of {lanes} "
            "environments, which start new episodes: the run is marked as not exact"
        )
    if device != trainer.device.type:
        found.standing.exact = False
        notes.append(f"it trained on {device} before: the run is marked as not exact")
