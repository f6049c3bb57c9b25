"""What a training asks of the processes that it is spread over, and the answers of one alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rlgrad.estimators.pooling import ALONE, Pool
from rlgrad.rollout import Rollout


@runtime_checkable
class Ranks(Protocol):
    """The processes of one training; each has a share of every seed's lanes."""

    rank: int
    """Of this process; rank 0 leads: it alone counts, shows and writes."""
    size: int
    pool: Pool
    """Sums over their rows."""

    @property
    def leads(self) -> bool:
        """Whether this process is the one that counts, shows and writes."""

    @property
    def cpu_seconds(self) -> float:
        """That the other processes have spent, as last reported."""

    def lanes(self, total: int) -> range:
        """This process's lanes of each seed, of ``total``."""

    def counted(self, rollout: Rollout, spent: float) -> Rollout | None:
        """What is counted of a rollout, of all lanes, at the leader; None elsewhere.

        Args:
            rollout: of this process's lanes.
            spent: CPU-seconds of this process so far.
        """

    def report(self, spent: float) -> None:
        """Tell the leader of this process's CPU-seconds, where ``counted`` does not."""

    def whole(self, rollout: Rollout, seed: int) -> Rollout:
        """Of all lanes, all that a rollout has of one seed."""

    def on_device(self, rollout: Rollout) -> Rollout:
        """What is counted of a rollout, of all lanes, without asking the device."""

    def joined(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """State of all lanes, at the leader; elsewhere what was given."""

    def own(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This process's share of the state of all lanes."""

    def flags(self, mine: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """One flag for each of all lanes, seed by seed, from those of this process's."""

    def told(self, text: str) -> str:
        """What the leader says."""

    def alike(self) -> Any:
        """A context: what is refused in one process is refused in all, by the same words."""

    def check(self, facts: Mapping[str, Any]) -> None:
        """Refuse where processes differ in what they must have in common."""


class One:
    """A process alone: all lanes are its own."""

    rank, size, leads, cpu_seconds = 0, 1, True, 0.0
    pool: Pool = ALONE

    def lanes(self, total: int) -> range:
        """All."""
        return range(total)

    def counted(self, rollout: Rollout, spent: float) -> Rollout | None:
        """The rollout itself."""
        return rollout

    def report(self, spent: float) -> None:
        """Nobody is told."""

    def whole(self, rollout: Rollout, seed: int) -> Rollout:
        """Its rows of one seed."""
        return Rollout(*(None if x is None else x[seed : seed + 1] for x in rollout))  # type: ignore[arg-type]

    def on_device(self, rollout: Rollout) -> Rollout:
        """The rollout itself."""
        return rollout

    def joined(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What was given."""
        return dict(tensors)

    def own(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All."""
        return dict(tensors)

    def flags(self, mine: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """What was given."""
        return mine

    def told(self, text: str) -> str:
        """What was given."""
        return text

    @contextmanager
    def alike(self) -> Iterator[None]:
        """Nothing is changed."""
        yield

    def check(self, facts: Mapping[str, Any]) -> None:
        """There is nothing to differ from."""


ONE = One()
