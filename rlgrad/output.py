"""Results as files: written whole or not at all, and inside the folder that was meant."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from rlgrad.errors import UsageError, shown


def _sync(path: Path) -> None:
    """Make the names in a folder last, where the system can."""
    if os.name == "nt":  # Windows opens no folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, data: bytes) -> None:
    """Write beside, sync, rename: a reader sees the old file or the new one, never a part."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.unlink(missing_ok=True)  # it may be a link that leads elsewhere
        with beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        _sync(path.parent)
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def check_own(folder: Path, files: Sequence[str], folders: Sequence[str]) -> None:
    """Refuse to write into a folder where a link in it would lead the writing out of it.

    Args:
        folder: that was made elsewhere, perhaps.
        files: names of plain files in it that will be written to; they may be missing.
        folders: names of folders in it, the same.

    Raises:
        UsageError: naming what stands there instead.
    """
    for name in (*files, *folders):
        try:
            about = os.lstat(folder / name)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UsageError(f"{folder / name}: {error.strerror}") from None
        plain = stat.S_ISREG(about.st_mode) and about.st_nlink == 1
        if not (plain if name in files else stat.S_ISDIR(about.st_mode)):
            raise UsageError(
                f"{folder / name} is a link, or no plain {'file' if name in files else 'folder'}, "
                "and would be written to; copy the run to a new folder by cp -RL"
            )


@contextmanager
def to_disk(path: Path) -> Iterator[None]:
    """What the disk refuses inside, as one line.

    Raises:
        UsageError: that names the path.
    """
    try:
        yield
    except OSError as error:
        raise UsageError(f"cannot write to {path}: {error.strerror or error}") from None


def check_names(names: Iterable[str]) -> None:
    """Refuse what is no name of a file inside a folder: ``..``, absolute, empty parts.

    Raises:
        UsageError: naming it.
    """
    for name in names:
        parts = name.split("/")
        bad = {"", ".", ".."} & set(parts) or "\\" in name or "\0" in name
        if bad or PurePosixPath(name).is_absolute():
            raise UsageError(f"{shown(name)} is no name of a file inside a folder")


def _fill(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    for path in (*folder.rglob("*"), folder):
        if path.is_dir():
            _sync(path)


def check_writable(path: Path, flag: str) -> None:
    """Refuse a file or folder to be where nothing can be written, before the work that it is for.

    Args:
        path: of the file or folder; those above it may be missing.
        flag: what it was asked for by, such as ``--output``.

    Raises:
        UsageError: naming the folder that is in the way.
    """
    there = next(above for above in path.absolute().parents if above.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UsageError(f"nothing can be written to {there}; choose another place by {flag}")


def new_folder(output: str | None, parent: Path) -> Path:
    """Where a report will go, checked before the work that it tells of.

    Args:
        output: a folder that does not exist yet; None: one in ``parent``, named by the time.
        parent: of the default.

    Raises:
        UsageError: where ``output`` exists already, or nothing can be written there.
    """
    if output is not None and not output.strip():
        raise UsageError(f"got --output {output!r}; expected a folder")
    folder = parent / time.strftime("%Y-%m-%d_%H-%M-%S") if output is None else Path(output)
    if output is not None and folder.exists():
        raise UsageError(f"--output {output} exists; name a new folder")
    check_writable(folder, "--output")
    return folder


def fresh_folder(parent: Path) -> Path:
    """Make a folder named by the time, one that nobody else has made.

    Args:
        parent: made if missing.

    Raises:
        OSError: where it cannot be written.
    """
    parent.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    for attempt in range(1000):
        path = parent / (f"{stamp}_{attempt}" if attempt else stamp)
        try:
            path.mkdir()
            return path
        except FileExistsError:
            continue
    raise FileExistsError(errno.EEXIST, "a thousand runs began in this second", str(parent))


def write_folder(path: Path, files: Mapping[str, bytes]) -> Path:
    """Write a folder that is new, whole or not at all; ``path_1`` and so on where it exists.

    Two processes that want the same name get two.

    Args:
        path: of the folder.
        files: contents by name.

    Returns:
        The folder that was written.

    Raises:
        UsageError: for a name that leaves the folder, and where the disk refuses.
    """
    check_names(files)
    target = path.resolve()
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        _fill(beside, files)
        for attempt in range(1000):
            folder = path.with_name(f"{path.name}_{attempt}") if attempt else path
            if not folder.exists() and _claimed(beside, folder):
                _sync(target.parent)
                return folder
        raise UsageError(f"cannot write {path}: a thousand folders of that name exist")
    except OSError as error:
        raise _refused(path, error) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _claimed(beside: Path, folder: Path) -> bool:
    """Give a folder its name; False where another process was faster."""
    try:
        beside.rename(folder)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            return False
        raise
    return True


def _refused(path: Path, error: OSError) -> UsageError:
    return UsageError(
        f"cannot write {path}: {error.strerror or error}; name a folder on a disk that has "
        "room and that you may write to"
    )
