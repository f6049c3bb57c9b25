"""``rlgrad compare``: a question on the command line, an answer with its evidence."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from rlgrad.arguments import parse_pairs


@dataclass(frozen=True)
class Compare:
    """Compare agents over many seeds: train what is missing, then report with intervals."""

    targets: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="ENV|RUN")]
    """Gymnasium ids, such as CartPole-v1; or directories of finished runs, compared as they are."""
    agents: str = "actor-critic,relax"
    """Agents and peers, such as reinforce,relax,sb3-ppo; see `rlgrad list agents`."""
    seeds: str = "20"
    """A count (20), a range (0-9) or a list (1,5,7)."""
    total_timesteps: int | None = None
    """Env steps per seed (also -n). Default: the environment card's."""
    num_envs: int | None = None
    """Environments per seed. Default: each agent's own."""
    max_episode_steps: int | None = None
    """Truncate episodes after so many env steps. Default: the environment's own limit."""
    eval_episodes: int = 100
    """Fresh episodes per seed, by sampling and as many by argmax."""
    jobs: int = 0
    """Processes at a time; 0: one per core."""
    alone: bool = False
    """Train the first seed in a process of its own as well, for the seconds of one seed alone."""
    retrain: bool = False
    """Ignore finished runs with the same card."""
    env_module: tuple[str, ...] = ()
    """Modules to import first, which register environments."""
    env_kwargs: tuple[str, ...] = ()
    """key:value pairs for the environment's constructor, such as map_name:8x8."""
    log_dir: str = "runs"
    """Where runs are kept and found."""
    output: str = ""
    """Directory of the report. Default: LOG-DIR/compare/<environment>/<time>."""
    json: bool = False
    """Print the result as JSON on standard output."""
    quiet: bool = False
    """Show no progress."""

    def execute(self, chosen: dict[str, Any]) -> int:
        """Compare, write the report, print the tables."""
        from rlgrad.comparison.comparing import compare
        from rlgrad.comparison.tables import print_comparison
        from rlgrad.comparison.writing import destination, write

        flags = {
            key: value
            for key in ("total_timesteps", "num_envs", "max_episode_steps")
            if (value := getattr(self, key)) is not None
        }
        folder = destination(self.targets, self.output, self.log_dir)
        found = compare(
            *self.targets,
            agents=self.agents,
            seeds=self.seeds,
            jobs=self.jobs,
            alone=self.alone,
            retrain=self.retrain,
            eval_episodes=self.eval_episodes,
            env_kwargs=parse_pairs(self.env_kwargs, "--env-kwargs"),
            env_modules=self.env_module,
            log_dir=self.log_dir,
            quiet=self.quiet,
            **flags,
        )
        write(found, folder)
        if self.json:
            print(json.dumps(found.to_dict() | {"report": str(folder / "report.html")}))
        print_comparison(found, folder, self.log_dir)
        return 0
