"""The table of estimators that ``rlgrad.variance`` gives: what was measured, and how it looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlgrad.lab.pages import fragment, page
from rlgrad.lab.pictures import along, bars_of
from rlgrad.lab.rows import Measurements

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class VarianceTable(Measurements):
    """All estimators at one frozen policy, by variance; a notebook shows it as a table."""

    def plot(self) -> Figure:
        """Variances relative to the baseline, as bars; over training where there is a history."""
        return along(self) if self.history else bars_of(self)

    def html(self) -> str:
        """The report, as one self-contained page."""
        return page(self).html()

    def _repr_html_(self) -> str:
        """For a notebook."""
        return fragment(self)
