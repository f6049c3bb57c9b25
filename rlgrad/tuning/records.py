"""What tuning leaves: trials, and what they came to for an agent."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Trial:
    """What one setting came to."""

    number: int
    """In the order of trying; 0 is the card as it was."""
    settings: dict[str, Any]
    """Fields of ``Config``."""
    area: float
    """Mean return over the env steps of training, mean over seeds; of a pruned trial up to its
    end."""
    pruned: bool
    last: float
    """Mean return of the last 100 training episodes, mean over seeds."""
    failed: int
    """Seeds whose numbers became infinite or NaN; they count with the return of random actions."""
    cpu_seconds: float
    curve: list[tuple[float, float]] = field(repr=False, default_factory=list)
    """(env steps, mean return over seeds)."""


@dataclass(frozen=True)
class Tuned:
    """One agent's trials on an environment."""

    env: str
    agent: str
    seeds: tuple[int, ...]
    total_timesteps: int
    """Env steps per seed and trial."""
    floor: float
    """Return of random actions."""
    space: str
    """In words."""
    trials: tuple[Trial, ...]
    """Those that are judged, in the order of trying: as many as every agent has."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """For the environment's constructor."""
    left_out: int = 0
    """Further trials, which another agent has not had."""
    study: Path = Path()
    """Folder of the journal."""

    @cached_property
    def ranked(self) -> list[Trial]:
        """Best first: by area, those given up last."""
        return sorted(self.trials, key=lambda trial: (trial.pruned, -trial.area))

    @property
    def best(self) -> Trial:
        """The largest area of those that were trained to the end."""
        return self.ranked[0]

    @property
    def record(self) -> dict[str, Any]:
        """What a card tells of the effort; see ``card_files.TUNING``."""
        pruned = sum(trial.pruned for trial in self.trials)
        seeds = _span(self.seeds)
        pairs = "".join(f" {key}:{value}" for key, value in self.env_kwargs.items())
        return {
            "tuned_trials": len(self.trials),
            "seeds": seeds,
            "judged_by": f"area under the learning curve over {self.total_timesteps:,} env steps, "
            f"mean of {len(self.seeds)} seeds; {pruned} of the trials were given up by the median "
            "rule",
            "space": self.space,
            "cpu_hours": round(sum(trial.cpu_seconds for trial in self.trials) / 3600, 3),
            "source": f"rlgrad tune {self.env} --agents {self.agent} --trials {len(self.trials)} "
            f"-n {self.total_timesteps} --seeds {seeds}" + (pairs and f" --env-kwargs{pairs}"),
        }


def _span(seeds: tuple[int, ...]) -> str:
    """Seeds as a range where they are one."""
    first, last = seeds[0], seeds[-1]
    if list(seeds) == list(range(first, last + 1)):
        return f"{first}-{last}"
    return ",".join(f"{seed}-{seed}" for seed in seeds)
