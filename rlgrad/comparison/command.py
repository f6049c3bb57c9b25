"""``rlgrad compare``: a question on the command line, an answer with its evidence."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from rlgrad.arguments import parse_pairs
from rlgrad.errors import UsageError
from rlgrad.peer_cards import SHARED
from rlgrad.terminal import out, tell

_TRAINING = (
    *SHARED, "agents", "seeds", "eval_episodes", "jobs", "ray", "alone", "retrain", "env_kwargs",
)  # fmt: skip


@dataclass(frozen=True)
class Compare:
    """Compare agents over many seeds: train what is missing, report intervals."""

    targets: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="ENV|RUN"),
    ]
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
    """Processes at a time, or tasks with --ray; 0: one per core."""
    ray: Annotated[str | None, tyro.conf.arg(metavar="[auto|HOST:PORT]", help_behavior_hint="")] = (
        None
    )
    """Train as tasks of a Ray cluster, see docs/cluster.md: alone or auto joins one that runs on
    this machine, or else starts one here; HOST:PORT joins that one; local starts one."""
    alone: bool = False
    """Train the first seed in a process of its own as well, for the seconds of one seed alone."""
    retrain: bool = False
    """Ignore finished runs with the same card."""
    env_module: tuple[str, ...] = ()
    """Modules to import first, which register environments or hold estimators."""
    env_kwargs: tuple[str, ...] = ()
    """key:value pairs for the environment's constructor, such as map_name:8x8."""
    log_dir: str = "runs"
    """Where runs are kept and found."""
    output: str | None = None
    """Directory of the report. Default: LOG-DIR/compare/<environment>/<time>."""
    json: bool = False
    """Print the result as JSON on standard output."""
    quiet: bool = False
    """Show no progress."""

    def execute(self, chosen: dict[str, Any]) -> int:
        """Compare, write the report, print the tables; 1 where a seed failed."""
        from rlgrad.comparison.comparing import compare, is_run
        from rlgrad.comparison.tables import print_comparison
        from rlgrad.comparison.writing import destination, write

        if any(is_run(target) for target in self.targets):
            self._refuse_flags_of_training()
        folder = destination(self.targets, self.output, self.log_dir)
        found = compare(*self.targets, **self._asked())
        told = found.to_dict()
        try:  # what was measured is shown even where it cannot be kept
            folder = write(found, folder)
            told["report"] = str(folder / "report.html")
        finally:
            if self.json:
                out(json.dumps(told))
            print_comparison(found, stderr=self.json)
        say = tell if self.json else out
        say(f"report       {folder / 'report.html'}")
        say(f"TensorBoard  tensorboard --logdir {self.output or self.log_dir}")
        return int(any(summary.failed for summary in found.summaries))

    def _asked(self) -> dict[str, Any]:
        """Arguments of ``rlgrad.compare``."""
        flags = {key: getattr(self, key) for key in SHARED if getattr(self, key) is not None}
        return {
            "agents": self.agents,
            "seeds": self.seeds,
            "jobs": self.jobs,
            "ray": self.ray,
            "alone": self.alone,
            "retrain": self.retrain,
            "eval_episodes": self.eval_episodes,
            "env_kwargs": parse_pairs(self.env_kwargs, "--env-kwargs"),
            "env_modules": self.env_module,
            "log_dir": self.log_dir,
            "quiet": self.quiet,
            **flags,
        }

    def _refuse_flags_of_training(self) -> None:
        """Finished runs are compared as they are: what would change them must not pass unheard."""
        for field in dataclasses.fields(self):
            if field.name in _TRAINING and getattr(self, field.name) != field.default:
                flag = field.name.replace("_", "-")
                raise UsageError(
                    f"--{flag} is for training, and finished runs are compared as they are; "
                    "leave it out, or name an environment"
                )
