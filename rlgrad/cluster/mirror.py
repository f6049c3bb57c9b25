"""A folder on a node, and its copy in the driver's store.

Files travel whole, in an order in which what has arrived can always be gone on from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlgrad.errors import UsageError
from rlgrad.locking import Lock
from rlgrad.output import check_names, fresh_folder, to_disk, write_whole

Files = dict[str, bytes | None]
"""Contents by name in the folder; None: it is no longer there."""
# What a run must not have before the files that it tells of: the last ones are sent last.
_LATE = ("metrics.jsonl", "checkpoints/", "card.toml", "result.json")
_MOMENTS = ("checkpoints/", "card.toml", "journal.jsonl")
"""Files whose change is worth sending all that has changed."""


def _rank(name: str) -> int:
    return next((i + 1 for i, each in enumerate(_LATE) if name.startswith(each)), 0)


def _is_own(name: str) -> bool:
    """Whether a file belongs to the folder's contents: no lock, and nothing half-written."""
    return name != "lock" and not any(part.startswith(".") for part in name.split("/"))


class Outbox:
    """On a node: what changed in a folder since it was last looked at.

    Args:
        root: an empty folder.
        depth: of the folder below it, which whoever works there may make.
    """

    def __init__(self, root: Path, depth: int) -> None:
        self._root, self._pattern = root, "/".join("*" * depth)
        self._known: dict[str, tuple[int, int, int]] = {}

    @property
    def folder(self) -> Path | None:
        """The folder; None: it is not yet there."""
        return next(self._root.glob(self._pattern), None)

    def put(self, inside: str, files: Mapping[str, bytes]) -> None:
        """Fill the folder with what the driver has.

        Args:
            inside: its path below the root.
            files: contents by name.
        """
        for name, data in files.items():
            path = self._root / inside / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        self._known = self._now()

    def _now(self) -> dict[str, tuple[int, int, int]]:
        folder, found = self.folder, {}
        for path in folder.rglob("*") if folder else ():
            name = path.relative_to(folder or path).as_posix()
            with suppress(OSError):
                if _is_own(name) and path.is_file() and not path.is_symlink():
                    about = path.stat()
                    found[name] = (about.st_ino, about.st_size, about.st_mtime_ns)
        return found

    def changed(self, end: bool = False) -> Files:
        """Files that changed, the late ones last; nothing before there is a moment for it.

        Args:
            end: whether nothing will follow.
        """
        now = self._now()
        moved = [name for name, about in now.items() if self._known.get(name) != about]
        gone = [name for name in self._known if name not in now]
        if not end and not any(name.startswith(_MOMENTS) for name in (*moved, *gone)):
            return {}
        folder = self.folder
        assert folder is not None or not moved
        files: Files = dict.fromkeys(gone)
        # Late ones are read first: a record that is read after a checkpoint is as long as it says.
        for name in sorted(moved, key=_rank, reverse=True):
            with suppress(FileNotFoundError):  # an old checkpoint may just have been removed
                files[name] = _whole_lines(name, ((folder or self._root) / name).read_bytes())
        self._known = now
        return {name: files[name] for name in sorted(files, key=_rank)}


def _whole_lines(name: str, data: bytes) -> bytes:
    """Without the line that is just being written."""
    return data[: data.rfind(b"\n") + 1] if name.endswith(".jsonl") else data


class Inbox:
    """On the driver: the copy, in a folder that nobody else writes to.

    Args:
        folder: that holds it; None: a new one, made in ``parent`` when there is something to keep.
        parent: of a new one.
    """

    def __init__(self, folder: Path | None, parent: Path) -> None:
        self.folder, self._parent = folder, parent
        self._fresh = folder is None
        self._lock = Lock(folder) if folder is not None else None

    def take(self, files: Mapping[str, bytes | None]) -> None:
        """Keep files, each whole or not at all.

        Raises:
            UsageError: for a name that leaves the folder, or where the disk refuses.
        """
        check_names(files)
        for name in files:
            if not _is_own(name):
                raise UsageError(f"a node sent {name}, which is no file of a run")
        with to_disk(self.folder or self._parent):
            if files and self.folder is None:
                self.folder = fresh_folder(self._parent)
                self._lock = Lock(self.folder)
            for name, data in files.items():
                path = (self.folder or self._parent) / name
                if data is None:
                    path.unlink(missing_ok=True)
                    continue
                path.parent.mkdir(exist_ok=True)
                write_whole(path, _placed(name, data, path.parent))

    def files(self) -> dict[str, bytes]:
        """What a node needs to go on; empty where it must begin."""
        found = dict(self._own())
        if self._fresh and not {"card.toml", "run.json"} <= found.keys():
            return {}
        return {name: path.read_bytes() for name, path in found.items()}

    def _own(self) -> Iterator[tuple[str, Path]]:
        for path in sorted(self.folder.rglob("*")) if self.folder else ():
            name = path.relative_to(self.folder or path).as_posix()
            if _is_own(name) and path.is_file() and not path.is_symlink():
                yield name, path

    def forget(self) -> None:
        """Remove what came: the next attempt begins anew."""
        for _, path in list(self._own()):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let others use the folder."""
        if self._lock is not None:
            self._lock.release()


def _placed(name: str, data: bytes, folder: Path) -> bytes:
    """A file that tells of the node's folders, telling of the driver's."""
    if name not in ("result.json", "run.json"):
        return data
    told: dict[str, Any] = json.loads(data)
    if name == "result.json":
        told["run"] = str(folder)
    else:
        told["options"]["log_dir"] = str(folder.parents[2])
    return json.dumps(told, indent=1 if name == "run.json" else None).encode()
