"""One process per run directory: a lock that the system gives back when its holder dies."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
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
        UsageError: where another process, or another session of this one, holds it, which is named;
            where the folder cannot be written, or its file system knows no locks.
    """

    def __init__(self, folder: Path) -> None:
        self.path, self._process = folder / NAME, os.getpid()
        self._handle: int | None = None
        self._key: tuple[int, int] | None = None
        try:
            self._key = _claim(folder)
            self._handle = _open(self.path)
        except OSError as error:
            self.release()
            raise UsageError(
                f"cannot lock {folder}: {error.strerror or error}; choose a place that can be "
                "written to, on a file system with locks"
            ) from None
        except UsageError:
            self.release()
            raise
        with suppress(OSError):  # a disk may be full: the lock holds without its text
            text = {"pid": self._process, "host": socket.gethostname(), "since": _now()}
            os.ftruncate(self._handle, 0)
            os.write(self._handle, json.dumps(text).encode())

    def release(self) -> None:
        """Give the folder back; a forked child has nothing to give."""
        if self._process != os.getpid():
            return
        if self._handle is not None:
            if os.name != "nt":  # Windows removes no open file; there it stays, and blocks nobody
                with suppress(OSError):
                    self.path.unlink()
            os.close(self._handle)
        if self._key is not None:
            _held.pop(self._key, None)
        self._handle = self._key = None

    def __del__(self) -> None:
        """Where nobody released it."""
        self.release()


_held: dict[tuple[int, int], int] = {}
"""Device and inode of a folder, and the process that holds it: a system's lock is of a process, so
it does not keep apart two sessions of one. A forked child has a copy that means nothing to it."""
_guard = threading.Lock()


def _claim(folder: Path) -> tuple[int, int]:
    """Note a folder as held by this process; refuse where it is already."""
    found = folder.stat()
    key = found.st_dev, found.st_ino
    with _guard:
        if _held.get(key) == os.getpid():
            # The file is not looked at: closing it would give up the lock of that session.
            raise UsageError(
                f"{folder} is in use by another session of this process ({os.getpid()}); let it "
                "end first"
            )
        _held[key] = os.getpid()
    return key


def _open(path: Path) -> int:
    """The lock's file, locked.

    Raises:
        UsageError: where another process holds it.
        OSError: where the system refuses.
    """
    while True:
        handle = _opened(path)
        try:
            _take(handle)
        except BlockingIOError:
            os.close(handle)
            raise UsageError(
                f"{path.parent} is in use by {_holder(path)}; wait for it, or end it first"
            ) from None
        except OSError:
            os.close(handle)
            raise
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        os.close(handle)  # the holder before us has just removed the file that we opened


def _opened(path: Path) -> int:
    """The file, made if missing; a link is not followed, and a pipe does not hang."""
    flags = (getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK"))
    why = "it is no plain file"
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | sum(flags), 0o644)
    except OSError as error:
        if not (path.is_symlink() or path.is_dir()):
            raise
        why = error.strerror or why
    else:
        if stat.S_ISREG(os.fstat(handle).st_mode):
            return handle
        os.close(handle)
    raise UsageError(f"cannot lock {path.parent} by its file {path.name}: {why}")


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _take(handle: int) -> None:
    """Lock a file, or raise BlockingIOError; children of this process do not share the lock."""
    if os.name == "nt":
        import msvcrt

        os.lseek(handle, 1 << 20, os.SEEK_SET)  # past the text, so that others can read it
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError as error:
            raise BlockingIOError(*error.args) from None
        os.lseek(handle, 0, os.SEEK_SET)
    else:
        import fcntl

        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except PermissionError as error:  # what some systems say where another process has it
            raise BlockingIOError(*error.args) from None


def _holder(path: Path) -> str:
    """Who holds it, in words."""
    try:
        told = read_json(path)
        return f"process {int(told['pid'])} on {str(told['host'])[:80]} since {told['since'][:40]}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
