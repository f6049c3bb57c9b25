"""Numbers that environments give in their infos: what is wanted, and what it came to by seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rlgrad.errors import UsageError, nearest, shown

REDUCTIONS = ("mean", "min", "max", "end")
"""Over all steps since the last logged point; end: the mean over episodes of their last step's."""


class Wanted(NamedTuple):
    """What is logged of the infos."""

    key: str
    """Of the info; ``a.b`` is ``info["a"]["b"]``, ``a.0`` the first of a sequence."""
    reduction: str
    """One of ``REDUCTIONS``."""

    @property
    def tag(self) -> str:
        """In TensorBoard and metrics.jsonl."""
        return f"info/{self.key}" + ("" if self.reduction == "mean" else f"_{self.reduction}")


def parse_wanted(text: str) -> Wanted:
    """``KEY``, whose mean is meant, or ``KEY:REDUCTION``.

    Raises:
        UsageError: for an empty key or another reduction.
    """
    key, colon, reduction = text.rpartition(":")
    if not colon:
        key, reduction = text, "mean"
    if not key or reduction not in REDUCTIONS:
        near = nearest(reduction, REDUCTIONS) if key else "KEY is empty"
        raise UsageError(f"got --log-info {shown(text)}; expected KEY or KEY:REDUCTION, {near}")
    return Wanted(key, reduction)


class Noted(NamedTuple):
    """What one key came to over some steps; at least one."""

    steps: int
    total: float
    least: float
    most: float
    ends: int
    """Episodes whose last step gave it."""
    ends_total: float

    @classmethod
    def of(cls, x: float, ended: bool) -> Noted:
        """Of one step."""
        return cls(1, x, x, x, int(ended), x if ended else 0.0)

    def with_(self, later: Noted) -> Noted:
        """The same over these steps and later ones."""
        return Noted(
            self.steps + later.steps,
            self.total + later.total,
            min(self.least, later.least),
            max(self.most, later.most),
            self.ends + later.ends,
            self.ends_total + later.ends_total,
        )

    def reduced(self, reduction: str) -> float:
        """One number; NaN where no episode ended."""
        if reduction == "end":
            return self.ends_total / self.ends if self.ends else math.nan
        return {"mean": self.total / self.steps, "min": self.least, "max": self.most}[reduction]


class Taken(NamedTuple):
    """What infos gave since the last look."""

    noted: dict[str, Noted]
    """By key."""
    names: frozenset[str]
    """Keys that there were."""


def merged(parts: Iterable[Taken]) -> Taken:
    """Several lanes', or one lane's of several times, as one; sums are in the order given."""
    noted: dict[str, Noted] = {}
    names: frozenset[str] = frozenset()
    for part in parts:
        names |= part.names
        for key, each in part.noted.items():
            noted[key] = noted[key].with_(each) if key in noted else each
    return Taken(noted, names)


class Infos:
    """What S seeds' infos gave since each was last logged.

    Args:
        wanted: as ``parse_wanted`` takes it.
        seeds: S.
    """

    def __init__(self, wanted: Sequence[str], seeds: int) -> None:
        self.wanted = tuple(dict.fromkeys(map(parse_wanted, wanted)))
        self._noted: list[dict[str, Noted]] = [{} for _ in range(seeds)]
        self._names: frozenset[str] = frozenset()
        self._missed = {each.key for each in self.wanted}

    def add(self, taken: Sequence[Taken], trained: Sequence[bool]) -> None:
        """Take in an iteration.

        Args:
            taken: by seed.
            trained: which seeds it trained; what others' environments did counts for nothing.
        """
        for i, each in enumerate(taken):
            if not trained[i]:
                continue
            self._noted[i] = merged([Taken(self._noted[i], frozenset()), each]).noted
            self._names |= each.names
            self._missed -= each.noted.keys()

    def row(self, i: int) -> dict[str, float]:
        """What is logged of seed number i, by tag; then it is counted anew."""
        noted, self._noted[i] = self._noted[i], {}
        found = ((w.tag, noted[w.key].reduced(w.reduction)) for w in self.wanted if w.key in noted)
        return {tag: x for tag, x in found if not math.isnan(x)}

    def missing(self) -> list[str]:
        """What to tell of keys that gave no number so far; each once."""
        missed, self._missed = sorted(self._missed), set()
        there = ", ".join(sorted(self._names)) or "nothing"
        return [
            f"--log-info {key}: no number so far, it is not logged; infos hold {there}"
            for key in missed
        ]

    def state(self) -> list[dict[str, list[int | float]]]:
        """For a checkpoint, by seed."""
        return [{key: list(each) for key, each in noted.items()} for noted in self._noted]

    def load(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Go on from what ``state`` gave; empty: of a run that counted nothing.

        Raises:
            ValueError: where it is no such thing.
        """
        if len(state) not in (0, len(self._noted)):
            raise ValueError(f"it counts infos of {len(state)} seeds")
        for i, noted in enumerate(state):
            for key, numbers in noted.items():
                known = isinstance(numbers, list) and all(type(x) in (int, float) for x in numbers)
                if not known or len(numbers) != len(Noted._fields) or numbers[0] < 1:
                    raise ValueError(f"info {shown(key)} is {shown(numbers)}")
                self._noted[i][key] = Noted(*numbers)
