"""Errors that are the user's to mend: one line: what came, what was expected, what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

# Longer than any name that is worth reading, and than any line that a terminal can show at once.
_ENDLESS = re.compile(r"[^\s/]{256,}")
_LONGEST_LINE = 4000


class UsageError(ValueError):
    """Bad input; the command line prints it as one line and exits with status 2.

    What a stranger's file makes a message quote is cut here, whoever quotes it.
    """

    def __str__(self) -> str:
        text = " ".join(super().__str__().splitlines())
        text = _ENDLESS.sub(lambda found: f"{found[0][:80]}...", text)
        return text if len(text) <= _LONGEST_LINE else f"{text[:_LONGEST_LINE]}..."


class TracedError(UsageError):
    """A fault in code that is not rlgrad's, told in a line, with a traceback that is kept apart."""

    details = ""
    """The traceback; empty: there is none."""
    file = "error.txt"
    """Name of the file of a run's directory that keeps it."""
    kept = ""
    """Path of that file once it is written."""


def shown(value: object, most: int = 80) -> str:
    """``repr`` of what came, cut where it is too long for a line."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


def raised(error: BaseException, most: int | None = None) -> str:
    """What was raised, by its type and in one line, its text cut after ``most`` characters."""
    text = " ".join(str(error).split())[:most]
    return f"{type(error).__name__}: {text}".rstrip()


def nearest(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """'did you mean X?' for a misspelled name, else ``otherwise`` or the list of what there is."""
    names = sorted(known)
    folded = {each.lower(): each for each in names}
    close = difflib.get_close_matches(name[:100].lower(), folded, n=3, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(folded[each] for each in close)}?"
    return otherwise or (f"there are {', '.join(names)}" if names else "there are none")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, numpy or torch, on the CPU or a GPU, was refused memory."""
    names = {each.__name__ for each in type(error).__mro__}
    if names & {"MemoryError", "OutOfMemoryError"}:
        return True
    return "can't allocate memory" in str(error)  # torch's allocator on the CPU: a RuntimeError


def out_of_memory(error: BaseException) -> str:
    """The same in one line: what was refused, and what to do."""
    wanted = re.search(r"allocate ([\d.]+ \w+)", str(error))
    size = f": {wanted[1]} were refused" if wanted else ""
    return f"out of memory{size}; fewer seeds, --num-envs or --num-steps, or smaller --hidden, help"
