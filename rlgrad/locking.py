"""One process per run directory: a lock that the system gives back when its holder dies."""

from __future__ import annotations

import json
import os
import socket
import stat
import time
from contextlib import suppress
from pathlib import Path

from rlgrad.errors import UsageError
from rlgrad.reading import read_json

NAME = "lock"


class Lock:
    """Held from construction to ``release``, or to the end of the process, however it ends.

    The system's own lock on a file decides, so a file that a killed process left behind blocks
    nobody; its text only tells who holds it.

    Args:
        folder: the run directory.

    Raises:
        UsageError: where another process holds it, naming that process, or where the folder
            cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        while True:
            self._handle: int | None = _opened(self.path)
            try:
                _take(self._handle)
            except OSError:
                holder = _holder(self.path)
                self._close()
                raise UsageError(
                    f"{folder} is in use by {holder}; wait for it, or end it first"
                ) from None
            if self._is_current():
                break
            self._close()  # the holder before us has just removed the file that we opened
        text = {"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}
        os.ftruncate(self._handle, 0)
        os.write(self._handle, json.dumps(text).encode())

    def _is_current(self) -> bool:
        assert self._handle is not None
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self._handle), self.path.stat())
        return False

    def _close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def release(self) -> None:
        """Give the folder back."""
        if self._handle is not None:
            if os.name != "nt":  # Windows removes no open file; there it stays, and blocks nobody
                with suppress(OSError):
                    self.path.unlink()
            self._close()


def _opened(path: Path) -> int:
    """The file, made if missing; a link is not followed, and a pipe does not hang."""
    flags = (getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK"))
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | sum(flags), 0o644)
        if stat.S_ISREG(os.fstat(handle).st_mode):
            return handle
        os.close(handle)
        why = "it is no plain file"
    except OSError as error:
        why = error.strerror or str(error)
    raise UsageError(f"cannot lock {path.parent} by its file {path.name}: {why}")


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _take(handle: int) -> None:
    """Lock a file, or raise OSError; children of this process do not share the lock."""
    if os.name == "nt":
        import msvcrt

        os.lseek(handle, 1 << 20, os.SEEK_SET)  # past the text, so that others can read it
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        os.lseek(handle, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _holder(path: Path) -> str:
    """Who holds it, in words."""
    try:
        told = read_json(path)
        return f"process {int(told['pid'])} on {str(told['host'])[:80]} since {told['since'][:40]}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
