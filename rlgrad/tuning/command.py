"""``rlgrad tune``: the same tuning effort for every agent."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from rlgrad.arguments import parse_pairs
from rlgrad.terminal import out, tell


@dataclass(frozen=True)
class Tune:
    """Tune agents: as many trials each, on seeds that no result is reported on."""

    env: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ENV")]
    """Gymnasium id, such as LunarLander-v3, or my_package:MyEnv-v0."""
    agents: str = "actor-critic,relax"
    """Agents, such as actor-critic,rebar,relax; see `rlgrad list agents`."""
    trials: int = 20
    """Settings that are tried of each agent; the first is its card as it is."""
    budget: float | None = None
    """CPU-hours in all, an equal share for each agent; the trial that is running is let end.
    Default: no limit."""
    seeds: str = "1000-1009"
    """Trained together in every trial: a range (1000-1009) or a list; 0-19 and 100-199, which
    results are reported on, are refused."""
    total_timesteps: int | None = None
    """Env steps per seed and trial (also -n). Default: the environment card's."""
    jobs: int = 0
    """Agents that are tuned at a time; 0: one per core."""
    ray: Annotated[str | None, tyro.conf.arg(metavar="[auto|HOST:PORT]")] = None
    """Tune agents as tasks of a Ray cluster; as for `rlgrad compare`, see docs/cluster.md."""
    env_module: tuple[str, ...] = ()
    """Modules to import first, which register environments or hold estimators."""
    env_kwargs: tuple[str, ...] = ()
    """key:value pairs for the environment's constructor, such as map_name:8x8."""
    out: str | None = None
    """File of the tuned card (one agent), or folder of cards, such as agents. Default: beside
    the studies, LOG-DIR/tune/<environment>/<agent>.toml."""
    log_dir: str = "runs"
    """Where studies are kept and found: the same command goes on from there."""
    json: bool = False
    """Print the result as JSON on standard output."""
    quiet: bool = False
    """Show no progress."""

    def execute(self, chosen: dict[str, Any]) -> int:
        """Tune, write cards and pictures, print the trials."""
        from rlgrad.tuning.entry import tune
        from rlgrad.tuning.tables import print_tuning

        found = tune(
            self.env, self.agents, trials=self.trials, budget=self.budget, seeds=self.seeds,
            total_timesteps=self.total_timesteps,
            env_kwargs=parse_pairs(self.env_kwargs, "--env-kwargs"), env_modules=self.env_module,
            out=self.out, jobs=self.jobs, log_dir=self.log_dir, ray=self.ray, quiet=self.quiet,
        )  # fmt: skip
        if self.json:
            out(json.dumps(found.to_dict()))
        print_tuning(found, stderr=self.json)
        for each, card in zip(found.tuned, found.cards, strict=True):
            tell(f"card         {card}")
            tell(f"picture      {each.study / 'trials.png'}")
        return 0
