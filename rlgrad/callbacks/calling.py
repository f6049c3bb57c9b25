"""Calls a training's callbacks, and tells what goes wrong in them."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rlgrad.callbacks.base import HOOKS, Callback, Progress
from rlgrad.errors import TracedError, UsageError, nearest, raised, shown
from rlgrad.plain_data import plain

RESERVED = ("seed", "step")  # columns of metrics.jsonl


class CallbackError(TracedError):
    """A user's callback failed."""

    file = "callback-error.txt"

    def __str__(self) -> str:
        kept = f"; its traceback is in {self.kept}" if self.kept else ""
        return f"{super().__str__()}{kept}"


def _acting(callbacks: Sequence[Callback]) -> list[Callback]:
    """Those that do more than name infos, which the run's options keep."""
    return [
        each
        for each in callbacks
        if any(getattr(type(each), hook) is not getattr(Callback, hook) for hook in HOOKS)
    ]


def names(callbacks: Sequence[Callback]) -> list[str]:
    """By which a resumed run knows whether they are the same."""
    return [type(each).__qualname__ for each in _acting(callbacks)]


def check_callbacks(callbacks: Any) -> list[Callback]:
    """A list of callbacks, as given.

    Raises:
        UsageError: for what is none, or one with a misspelled method.
    """
    if not isinstance(callbacks, Sequence):
        raise UsageError(f"got callbacks {shown(callbacks)}; expected a list of Callback")
    for i, each in enumerate(callbacks):
        if not isinstance(each, Callback):
            raise UsageError(
                f"got callbacks[{i}] = {shown(each)}; expected an object of a subclass of "
                "rlgrad.callbacks.Callback"
            )
        for name in dir(each):
            if name.startswith("on_") and name not in HOOKS:
                raise UsageError(f"{type(each).__name__} has {name}; {nearest(name, HOOKS)}")
    return list(callbacks)


def wanted_infos(callbacks: Sequence[Callback], options: Sequence[str]) -> tuple[str, ...]:
    """Infos to log: those of the options, then those of the callbacks, each once."""
    return tuple(dict.fromkeys([*options, *(text for each in callbacks for text in each.infos)]))


class Callbacks:
    """The callbacks of a training.

    Args:
        callbacks: called in this order.
        progress: what they see.
    """

    def __init__(self, callbacks: Sequence[Callback], progress: Progress) -> None:
        self.callbacks, self.progress = _acting(callbacks), progress

    @contextmanager
    def _told(self, callback: Callback, name: str) -> Iterator[None]:
        """What a callback raises, as a ``CallbackError``."""
        try:
            yield
        except CallbackError:
            raise
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            told = CallbackError(
                f"callback {type(callback).__qualname__} raised {raised(error, 500)} in {name} "
                f"({place.filename}, line {place.lineno})"
            )
            told.details = "".join(traceback.format_exception(error))
            raise told from error

    def call(self, name: str, *arguments: Any) -> None:
        """Have each do something.

        Args:
            name: of the method.
            *arguments: after the progress.

        Raises:
            CallbackError: where one fails.
        """
        for each in self.callbacks:
            with self._told(each, name):
                getattr(each, name)(self.progress, *arguments)

    def log(self, seed: int, known: Mapping[str, float]) -> dict[str, float]:
        """A seed's numbers with those that callbacks add.

        Args:
            seed: its name.
            known: by tag, which callbacks may not replace.

        Raises:
            CallbackError: where one fails, or gives what cannot be logged.
        """
        numbers = dict(known)
        for each in self.callbacks:
            with self._told(each, "on_log"):
                numbers |= _checked(each.on_log(self.progress, seed), numbers)
        return numbers

    def states(self) -> list[dict[str, Any]]:
        """For a checkpoint.

        Raises:
            CallbackError: where one fails, or gives what JSON does not have.
        """
        found = []
        for each, name in zip(self.callbacks, names(self.callbacks), strict=True):
            with self._told(each, "state"):
                state = plain(each.state())
                if not isinstance(state, dict):
                    raise TypeError(f"state gave {shown(state)}; expected a dict")
            found.append({"name": name, "state": state})
        return found

    def restore(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Take over what ``states`` gave, where the callbacks are the same.

        Raises:
            CallbackError: where one fails.
        """
        if [each["name"] for each in states] == names(self.callbacks):
            for callback, each in zip(self.callbacks, states, strict=True):
                with self._told(callback, "restore"):
                    callback.restore(dict(each["state"]))


def _checked(given: Any, known: Mapping[str, float]) -> dict[str, float]:
    """What a callback wants logged, as numbers by tag."""
    if not isinstance(given, Mapping):
        raise TypeError(f"on_log gave {shown(given)}; expected numbers by tag")
    for tag in given:
        if not isinstance(tag, str) or not tag or tag in RESERVED:
            raise ValueError(f"on_log gave the tag {shown(tag)}; expected a name like probe/value")
        if tag in known:
            raise ValueError(f"on_log gave the tag {shown(tag)}, which is logged already")
    return {tag: float(x) for tag, x in given.items()}
