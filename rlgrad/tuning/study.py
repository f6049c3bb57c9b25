"""One agent's trials on one environment, in a journal that a killed process leaves whole.

The journal is Optuna's own, one line of JSON per event. Every trial has a sampler of its own, whose
seed is the trial's number: a study that is interrupted and begun again draws the same trials as one
that is not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from rlgrad.errors import UsageError, shown
from rlgrad.locking import Lock
from rlgrad.output import to_disk, write_whole
from rlgrad.tuning.records import Trial
from rlgrad.tuning.space import Range, Space, settings

JOURNAL = "journal.jsonl"
DONE = (TrialState.COMPLETE, TrialState.PRUNED)
STARTUP = 6  # trials that are drawn at random before the sampler learns from them
PRUNED_FROM = 2  # whole trials before one can be given up
WARM_UP = 2  # checkpoints before a trial can be given up


class _Alone:
    """Optuna's lock on a journal, where rlgrad's lock on its folder keeps others out already."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        return None


class Study:
    """Trials of one agent on one environment; one process at a time holds it.

    Args:
        folder: of the journal; it must exist.

    Raises:
        UsageError: where another process holds it, or the journal is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._lock = folder, Lock(folder)
        self._verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            self._study = _opened(folder / JOURNAL)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give it back."""
        optuna.logging.set_verbosity(self._verbosity)
        self._lock.release()

    @property
    def about(self) -> dict[str, Any]:
        """What is tuned, as ``begin`` was told; empty before."""
        return dict(self._study.user_attrs.get("about", {}))

    def begin(self, about: Mapping[str, Any]) -> None:
        """Say what is tuned."""
        with to_disk(self.folder):
            self._study.set_user_attr("about", dict(about))

    def trials(self) -> list[Trial]:
        """Those that have ended, in the order of trying."""
        return [_trial(i, each) for i, each in enumerate(self._ended())]

    def _ended(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=DONE)

    def ask(self, space: Space, now: Mapping[str, Any]) -> optuna.Trial:
        """The next trial; what a killed process left unfinished is drawn again.

        Args:
            space: of the settings.
            now: its point where the agent stands, which is tried first.
        """
        with to_disk(self.folder):
            for stale in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                self._study.tell(stale.number, state=TrialState.FAIL)
            waits = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
            number = len(self._ended())
            self._study.sampler = optuna.samplers.TPESampler(
                seed=number, n_startup_trials=STARTUP, constant_liar=False
            )
            if number == 0 and not waits:
                self._study.enqueue_trial(dict(now))
            trial = self._study.ask()
            for name, dimension in space.items():
                if isinstance(dimension, Range):
                    trial.suggest_float(name, dimension.low, dimension.high, log=True)
                else:
                    trial.suggest_categorical(name, dimension.values)
        return trial

    def tell(self, trial: optuna.Trial, found: Mapping[str, Any] | None) -> None:
        """How a trial ended; None: it was interrupted, and is drawn again."""
        with to_disk(self.folder):
            if found is None:
                self._study.tell(trial, state=TrialState.FAIL)
                return
            trial.set_user_attr("found", dict(found))
            if found["pruned"]:
                self._study.tell(trial, state=TrialState.PRUNED)
            else:
                self._study.tell(trial, found["area"])


def _opened(path: Path) -> optuna.Study:
    """The study in a journal, made if missing."""
    try:
        _mend(path)
        storage = JournalStorage(JournalFileBackend(str(path), lock_obj=_Alone()))
        pruner = optuna.pruners.MedianPruner(PRUNED_FROM, WARM_UP)
        return optuna.create_study(
            storage=storage, study_name="rlgrad", direction="maximize", load_if_exists=True,
            pruner=pruner,
        )  # fmt: skip
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path} is no journal of a study ({shown(str(error))}); move it away to begin anew"
        ) from None


def _mend(path: Path) -> None:
    """Take off a line that a killed process left half-written."""
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        write_whole(path, whole)


def _trial(number: int, frozen: FrozenTrial) -> Trial:
    found = frozen.user_attrs["found"]
    return Trial(
        number,
        settings(frozen.params),
        float(found["area"]),
        bool(found["pruned"]),
        math.nan if found["last"] is None else float(found["last"]),
        int(found["failed"]),
        float(found["cpu_seconds"]),
        [(float(x), float(y)) for x, y in found["curve"]],
    )
