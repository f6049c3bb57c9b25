"""Commands that train: train, and resume, which goes on with a run."""

from __future__ import annotations

import dataclasses
import gc
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from rlgrad import cards
from rlgrad.arguments import parse_pairs
from rlgrad.config import FIELDS, Config, own_module
from rlgrad.errors import UsageError
from rlgrad.options import Options, checked, parse_seeds
from rlgrad.report import print_summary
from rlgrad.terminal import out

if TYPE_CHECKING:
    from rlgrad.ranks.leading import Following
    from rlgrad.session import Session
    from rlgrad.store import Run


@contextmanager
def uncollected() -> Iterator[None]:
    """Import without the garbage collector, which would walk all modules again and again.

    It saves a tenth of the imports' time, and freezing what they leave saves later walks.
    """
    if "torch" in sys.modules:  # imported long ago: nothing to save, and not ours to freeze
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@dataclass(frozen=True)
class Train:
    """Train an agent on an environment, one seed or many at once."""

    env: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ENV")]
    """Gymnasium id, such as CartPole-v1, or my_package:MyEnv-v0."""
    agent: str | None = None
    """Agent card, see `rlgrad list agents`; sb3:PATH: an algorithm of Stable-Baselines3, such as
    sb3:stable_baselines3.DQN. Default: the estimator's card, or actor-critic."""
    seed: int | None = None
    """One seed."""
    seeds: str | None = None
    """Several seeds, trained together: a count (10), a range (0-9) or a list (1,5,7)."""
    env_module: tuple[str, ...] = ()
    """Modules to import first, which register environments or hold estimators."""
    env_kwargs: tuple[str, ...] = ()
    """key:value pairs for the environment's constructor, such as map_name:8x8."""
    peer_arg: tuple[str, ...] = ()
    """key:value pairs for the algorithm of a peer (sb3-ppo), such as learning_rate:0.001."""
    resume: str | None = None
    """Go on with this run, a path or "latest", instead of beginning one: `rlgrad resume`, with a
    check that all else that is given is what the run was begun with."""
    json: bool = False
    """Print the result as JSON on standard output."""
    run: tyro.conf.OmitArgPrefixes[Options] = field(default_factory=Options)
    config: tyro.conf.OmitArgPrefixes[Config] = field(default_factory=Config)

    def execute(self, chosen: dict[str, Any]) -> int:
        """Train, print the summary; 1 where a seed failed, 128 + signal where one stopped it."""
        with uncollected():
            from rlgrad.training import start

        if self.seed is not None and self.seeds is not None:
            raise UsageError("got both --seed and --seeds; expected one of them")
        seeds = parse_seeds([self.seed or 0] if self.seeds is None else self.seeds)
        flags = {key: value for key, value in chosen.items() if key in FIELDS}
        if self.resume is not None:
            return self._go_on(chosen, flags, seeds)
        resolved = cards.resolve(
            self.env, self.agent, flags.pop("estimator", None), flags,
            parse_pairs(self.env_kwargs, "--env-kwargs"), self.env_module,
            parse_pairs(self.peer_arg, "--peer-arg"),
        )  # fmt: skip
        session = start(resolved, seeds, checked(dataclasses.asdict(self.run)))
        return _trained(session, self.json, self.run.log_dir)

    def _go_on(self, chosen: dict[str, Any], flags: dict[str, Any], seeds: list[int]) -> int:
        """The same as ``Resume``, where the run is the one that is described."""
        from rlgrad.store import named_run

        run = named_run(str(self.resume), self.run.log_dir)
        total = flags.pop("total_timesteps", None)
        asked = {"environment": self.env, **flags}
        asked |= _named("--env-kwargs", parse_pairs(self.env_kwargs, "--env-kwargs"))
        asked |= _named("--peer-arg", parse_pairs(self.peer_arg, "--peer-arg"))
        if self.agent is not None:
            asked["agent"] = self.agent
        if self.seed is not None or self.seeds is not None:
            asked["seeds"] = tuple(seeds)
        _refuse_other(run, asked)
        options = {key: value for key, value in chosen.items() if key not in FIELDS}
        # An environment or estimator that is named with its module is consent to import that.
        named = [module for module in (self.env.rpartition(":")[0],) if module]
        modules = (*self.env_module, *named, *own_module(flags.get("estimator")))
        again = Resume(str(run.path), total, modules, self.json, self.run)
        return again.execute(options)


def _named(flag: str, pairs: dict[str, Any]) -> dict[str, Any]:
    """Pairs under names that no hyperparameter has."""
    return {f"{flag} {key}": value for key, value in pairs.items()}


def _refuse_other(run: Run, asked: dict[str, Any]) -> None:
    """Refuse to go on with a run that is not what was asked for."""
    about = {"environment": run.env_id, "agent": run.agent, "seeds": run.seeds}
    has = {**dataclasses.asdict(run.config), **about, **_named("--env-kwargs", run.env_kwargs)}
    for key, value in asked.items():
        if has.get(key) != value:
            raise UsageError(
                f"{run.path} has {key} = {has.get(key)!r}, and {value!r} is asked for; leave "
                "--resume out to begin a run, or the flag out to go on with this one"
            )


@dataclass(frozen=True)
class Resume:
    """Go on with a run that was killed or stopped, or extend one by a larger -n."""

    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run directory, or "latest"."""
    total_timesteps: int | None = None
    """A larger budget, valid env steps per seed (also -n). Default: the run's own."""
    env_module: tuple[str, ...] = ()
    """Modules to import first, which register environments or hold estimators."""
    json: bool = False
    """Print the result as JSON on standard output."""
    run: tyro.conf.OmitArgPrefixes[Options] = field(default_factory=Options)

    def execute(self, chosen: dict[str, Any]) -> int:
        """Train on; options that were not given are those that the run was begun with."""
        with uncollected():
            from rlgrad.resuming import restart

        log_dir = chosen.pop("log_dir", self.run.log_dir)
        session = restart(self.path, self.total_timesteps, chosen, self.env_module, log_dir)
        return _trained(session, self.json, log_dir)


def _trained(session: Session | Following, as_json: bool, log_dir: str) -> int:
    """Train to the end and print what it came to; the exit status."""
    session.go()
    if session.leads:
        result = session.result()
        if as_json:
            out(json.dumps(result))
        print_summary(result, log_dir)
    return session.status
