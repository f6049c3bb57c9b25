"""Lanes of a run, divided among processes and put together again.

Rank r of W has the lanes [r n, (r + 1) n) of each seed, n = N / W. All that is stored is of all
lanes, as one process has it, so a checkpoint does not know how many processes wrote it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rlgrad.errors import UsageError

LANES = "lanes."
"""Begins the names of tensors ``[S x N, ...]`` of lanes, seed by seed; see ``places``."""
BY_LANE = ("spread.carry",)
"""Tensors ``[S, N]`` beside those."""
ACTIONS, STEPS = f"{LANES}actions", f"{LANES}steps"
"""Rows of every lane's present episode, one lane's behind another's; and how many each has."""


def share(total: int, rank: int, size: int) -> range:
    """The lanes of one process.

    Args:
        total: N, lanes of each seed.
        rank: of the process.
        size: how many processes there are.

    Raises:
        UsageError: where the lanes cannot be divided evenly, with numbers that can.
    """
    if total % size:
        fit = [str(n) for n in range(1, total + 1) if total % n == 0]
        few = f"{', '.join(fit[:-1])} or {fit[-1]}" if total > 1 else "1"
        more = -(-total // size) * size
        raise UsageError(
            f"{total} environments per seed cannot be divided evenly among {size} processes; start "
            f"{few} of them (--nproc-per-node), or train with --num-envs {more}"
        )
    each = total // size
    return range(rank * each, (rank + 1) * each)


def is_of_lanes(name: str) -> bool:
    """Whether a tensor of a checkpoint has a part for each lane."""
    return name.startswith(LANES) or name in BY_LANE


def joined(parts: Sequence[Mapping[str, Tensor]], seeds: int) -> dict[str, Tensor]:
    """State of all lanes from the shares of all processes, by rank; tensors of lanes alone."""
    found = {}
    for name in parts[0]:
        if name != ACTIONS:
            each = [_by_seed(name, part[name], seeds) for part in parts]
            found[name] = _as_stored(name, torch.cat(each, 1))
    if ACTIONS in parts[0]:
        each_lane = [_episodes(part, seeds) for part in parts]
        rows = [row for s in range(seeds) for part in each_lane for row in part[s]]
        wide = any(part[ACTIONS].dtype == torch.int64 for part in parts)
        found[ACTIONS] = torch.cat(rows).to(torch.int64 if wide else torch.uint8)
    return found


def own(tensors: Mapping[str, Tensor], seeds: int, lanes: range) -> dict[str, Tensor]:
    """The share of some lanes of each seed in the state of all.

    Raises:
        KeyError, RuntimeError: for tensors that are not of so many seeds.
    """
    found, part = dict(tensors), slice(lanes.start, lanes.stop)
    for name in filter(is_of_lanes, tensors):
        if name != ACTIONS:
            found[name] = _as_stored(name, _by_seed(name, tensors[name], seeds)[:, part])
    if ACTIONS in tensors:
        rows = [row for each in _episodes(tensors, seeds) for row in each[part]]
        found[ACTIONS] = torch.cat(rows)
    return found


def _by_seed(name: str, x: Tensor, seeds: int) -> Tensor:
    """``[S, N, ...]``."""
    return x if name in BY_LANE else x.reshape(seeds, len(x) // seeds, *x.shape[1:])


def _as_stored(name: str, x: Tensor) -> Tensor:
    return (x if name in BY_LANE else x.flatten(0, 1)).contiguous()


def _episodes(tensors: Mapping[str, Tensor], seeds: int) -> list[list[Tensor]]:
    """Rows of the present episode of each lane, by seed."""
    rows = tensors[ACTIONS].split(tensors[STEPS].tolist())
    each = len(rows) // seeds
    return [list(rows[s * each : (s + 1) * each]) for s in range(seeds)]
