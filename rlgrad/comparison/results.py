"""What ``rlgrad.compare`` returns."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from rlgrad.comparison.judgement import Judgement
from rlgrad.errors import UsageError, nearest

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Comparison(Judgement):
    """Agents over seeds, with pictures.

    In a notebook its value shows the report; ``plot()`` gives a figure, ``to_dict()`` all numbers.
    """

    def plot(self, env: str | None = None) -> Figure:
        """Learning curves on an environment; None: the first."""
        from rlgrad.comparison.figures import learning_curves

        if env is not None and env not in self.envs:
            raise UsageError(f"nothing was compared on {env!r}; {nearest(env, self.envs)}")
        return learning_curves(self, env)

    def html(self) -> str:
        """The report, as one self-contained page."""
        from rlgrad.comparison.report import page

        return page(self).html()

    def save(self, folder: str | Path) -> Path:
        """Report, pictures, tables and TensorBoard events, into a new folder.

        Raises:
            UsageError: where it cannot be written.
        """
        from rlgrad.comparison.writing import write

        return write(self, Path(folder))

    def _repr_html_(self) -> str:
        # In a frame of its own, so that neither style touches the other.
        source = escape(self.html())
        return f'<iframe srcdoc="{source}" width="100%" height="720" frameborder="0"></iframe>'
