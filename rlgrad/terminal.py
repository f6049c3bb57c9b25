"""Standard output and standard error, whoever reads them, or no longer does."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console

from rlgrad.errors import UsageError

_GONE = OSError, ValueError, AttributeError  # refused, closed, or never there


class _Lasting:
    """Standard error, as a file whose reader may be gone or whose disk may be full.

    What cannot be shown is dropped: training is worth more than its display.
    """

    @property
    def _file(self) -> Any:
        return getattr(sys.stderr, "rich_proxied_file", sys.stderr)

    def write(self, text: str) -> int:
        """Write if that can be; the number of characters."""
        with suppress(*_GONE):
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush if that can be."""
        with suppress(*_GONE):
            self._file.flush()

    def isatty(self) -> bool:
        """Whether a person may be looking."""
        with suppress(*_GONE):
            return bool(self._file.isatty())
        return False

    def fileno(self) -> int:
        """Of standard error."""
        return int(self._file.fileno())

    @property
    def encoding(self) -> str:
        """Of standard error."""
        return getattr(self._file, "encoding", None) or "utf-8"


STDERR: Any = _Lasting()


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn what standard output refuses into words, but for a reader that is gone."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UsageError(f"cannot write to standard output: {error.strerror or error}") from None


class _Console(Console):
    """One that tells a broken pipe as Python does, where rich would end the process."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich does; what standard output refuses is an error in words."""
        with _refusals():
            super().print(*objects, **options)
            self.file.flush()


def console(stderr: bool = False, **options: Any) -> Console:
    """A rich console on standard output, or on standard error as ``STDERR``.

    Args:
        stderr: which of the two.
        **options: of ``rich.console.Console``.
    """
    return _Console(file=STDERR if stderr else None, highlight=False, **options)


def tell(line: str) -> None:
    """A line on standard error, if anyone can be told."""
    print(line, file=STDERR, flush=True)


def open_standard() -> None:
    """Give closed standard streams a place, before a file of ours gets their number.

    Else what a library prints on standard error would land in a checkpoint.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def out(text: str = "", end: str = "\n") -> None:
    """Print on standard output now, rather than after the last chance to say that it refuses.

    Raises:
        BrokenPipeError: where its reader is gone.
        UsageError: where it cannot be written otherwise.
    """
    with _refusals():
        if text or end:  # even nothing at all is an error on a terminal that is closed
            print(text, end=end)
        if sys.stdout is not None:
            sys.stdout.flush()


def drop_output() -> None:
    """Let nothing more be written to standard output: the interpreter tries again at its end."""
    try:
        sys.stdout.flush()
    except _GONE:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 1)
        os.close(devnull)
