"""What ``rlgrad.tune`` returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlgrad.errors import UsageError, nearest
from rlgrad.plain_data import plain
from rlgrad.tuning.records import Tuned

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Tuning:
    """Agents tuned on one environment, each with as many trials."""

    tuned: tuple[Tuned, ...]
    cards: tuple[Path, ...] = ()
    """Cards that were written."""

    def __getitem__(self, agent: str) -> Tuned:
        """One agent's trials."""
        found = {each.agent: each for each in self.tuned}
        if agent not in found:
            raise UsageError(f"{agent!r} was not tuned; {nearest(agent, found)}")
        return found[agent]

    def to_dict(self) -> dict[str, Any]:
        """All numbers, safe for JSON."""
        table = [
            {
                "environment": each.env,
                "agent": each.agent,
                "seeds": each.seeds,
                "total_timesteps": each.total_timesteps,
                "floor": each.floor,
                "left_out": each.left_out,
                "best": each.best.number,
                "record": each.record,
                "trials": each.trials,
                "study": each.study,
            }
            for each in self.tuned
        ]
        safe: dict[str, Any] = plain({"agents": table, "cards": self.cards})
        return safe

    def plot(self, agent: str | None = None) -> Figure:
        """The trials of an agent; None: of the first."""
        from rlgrad.tuning.figures import picture

        return picture(self.tuned[0] if agent is None else self[agent])
