"""What a check found, and the error that carries it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One broken promise."""

    check: str
    """Which check found it: interface, raised, space, reward, flags, info, device, seed, buffer,
    autoreset, limit or reference."""
    text: str
    """What came, what was expected, and where it was first seen."""


@dataclass(frozen=True)
class Report:
    """The outcome of ``check_vector_env``; ``print`` shows it."""

    env: str
    """Name of the environment."""
    faults: tuple[Finding, ...]
    notes: tuple[str, ...]
    """What could not be judged, and why."""
    steps: int
    """Vector steps of each play."""
    episodes: int
    """Episodes that ended in the first play."""

    @property
    def ok(self) -> bool:
        """Whether no fault was found."""
        return not self.faults

    def __str__(self) -> str:
        count = len(self.faults)
        said = f"{count} fault{'s' * (count != 1)}" if count else "no fault"
        lines = [f"{self.env}: {said} in {self.steps:,} steps, {self.episodes:,} episodes ended"]
        lines += [f"  [{fault.check}] {fault.text}" for fault in self.faults]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


class VectorEnvError(Exception):
    """A vector environment breaks promises; the message names all that were found.

    Args:
        report: with the faults.
    """

    def __init__(self, report: Report) -> None:
        super().__init__(str(report))
        self.report = report


class Collector:
    """Faults as they are met: each is told once, with its first place and how often it was seen."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], list[str]] = {}
        self.notes: list[str] = []

    def add(self, check: str, text: str, where: str = "") -> None:
        """Note a fault; the same text again only counts."""
        self._seen.setdefault((check, text), []).append(where)

    def faults(self) -> tuple[Finding, ...]:
        """All so far, in the order of their first sight."""
        found = []
        for (check, text), places in self._seen.items():
            where = f": {places[0]}" if places[0] else ""
            times = f", {len(places)} times" if len(places) > 1 else ""
            found.append(Finding(check, f"{text}{where}{times}"))
        return tuple(found)
