"""Checkpoint files: safetensors with counters as JSON in the header, and a checksum of both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from rlgrad.errors import UsageError, shown
from rlgrad.forms import COUNTERS
from rlgrad.output import write_whole
from rlgrad.plain_data import plain
from rlgrad.reading import conform, installed_memory, open_regular, parse_json

FORMAT = 1


class DamagedError(UsageError):
    """A checkpoint file that is not what was written."""


def _checksum(tensors: Mapping[str, Tensor], counters: str) -> str:
    """SHA-256 over the counters and over each tensor's name, type, shape and bytes."""
    import torch

    sha = hashlib.sha256(counters.encode())
    for name, x in sorted(tensors.items()):
        sha.update(f"{name} {x.dtype} {list(x.shape)}".encode())
        sha.update(x.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def write(path: Path, tensors: Mapping[str, Tensor], counters: Mapping[str, Any]) -> None:
    """Store tensors and counters as one file, whole or not at all."""
    from safetensors.torch import save

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(plain(counters))
    checksum = _checksum(contiguous, text)
    metadata = {"format": str(FORMAT), "counters": text, "checksum": checksum}
    write_whole(path, save(contiguous, metadata=metadata))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, counters) of a checkpoint file.

    Raises:
        DamagedError: where the file is missing or is not what was written.
        UsageError: for another format.
    """
    from safetensors import SafetensorError, safe_open

    try:
        # As much as memory holds, or less: the file's size is the limit of what is taken.
        open_regular(path, installed_memory() // 2).close()
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        counters = parse_json(metadata["counters"])
        conform(counters, COUNTERS, "what it tells")
        if not counters["steps"] or len(counters["steps"]) != len(counters["seeds"]):
            raise ValueError("it tells of no seeds")
        # Without one, it is of a time before there were checksums.
        wanted = metadata.get("checksum")
        if wanted is not None and wanted != _checksum(tensors, metadata["counters"]):
            raise ValueError("its checksum is not that of its contents")
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        why = " ".join(str(error).split())[:300]
        raise DamagedError(f"{path}: cannot be read as a checkpoint: {why}") from None
    if metadata.get("format") != str(FORMAT):
        raise UsageError(
            f"{path}: format {shown(metadata.get('format'))}; this rlgrad reads format {FORMAT}: "
            "update rlgrad, or train again"
        )
    return tensors, counters
