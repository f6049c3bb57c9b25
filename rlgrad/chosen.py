"""Which policy a command means: a run, one of its seeds, one of its checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from rlgrad.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from rlgrad.agent import Policy
    from rlgrad.store import Run


@dataclass(frozen=True)
class Chosen:
    """Flags that choose a trained policy; commands add theirs."""

    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run directory, or "latest"."""
    seed: int | None = None
    """Which of the run's seeds. Default: its first."""
    best: bool = False
    """Where the seed's evaluation in training was best."""
    last: bool = False
    """The newest checkpoint; the default."""
    step: int | None = None
    """The checkpoint at so many env steps."""
    env_module: tuple[str, ...] = ()
    """Modules to import first, which register environments or hold estimators."""
    log_dir: str = "runs"
    """Where "latest" looks."""

    def which(self) -> str | int:
        """The word best or last, or env steps.

        Raises:
            UsageError: where more than one was asked for.
        """
        flags = {"--best": self.best, "--last": self.last, "--step": self.step is not None}
        given = [flag for flag, is_given in flags.items() if is_given]
        if len(given) > 1:
            raise UsageError(f"got {' and '.join(given)}; expected one of them")
        return "best" if self.best else "last" if self.step is None else self.step

    def run(self) -> Run:
        """The run, its modules imported where that was allowed."""
        from rlgrad.loading import open_run

        return open_run(self.path, self.env_module, self.log_dir)

    def checkpoint(self, run: Run) -> Path | None:
        """Its file; None: the newest that is whole."""
        from rlgrad.best import find_checkpoint

        return find_checkpoint(run, self.which(), self.seed)

    def policy(self, run: Run) -> Policy:
        """Of the chosen seed and checkpoint."""
        from rlgrad.loading import load_policy

        return load_policy(run, self.seed, self.checkpoint(run))

    def told(self, run: Run) -> str:
        """What was chosen, in words."""
        which = self.which()
        seed = run.seeds[0] if self.seed is None else self.seed
        where = f"step {which:,}" if isinstance(which, int) else which
        return f"{run.agent}, seed {seed}, {where}"
