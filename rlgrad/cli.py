"""The command line. Commands are dataclasses; the resolved card gives their flags' defaults."""

from __future__ import annotations

import dataclasses
import gc
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

import rlgrad
from rlgrad import cards
from rlgrad.arguments import Flags, flags_of, parse, parse_pairs, positional, spelled, value_of
from rlgrad.commands import Evaluate, List, Variance
from rlgrad.comparison.command import Compare
from rlgrad.config import FIELDS, Config
from rlgrad.errors import UsageError, nearest
from rlgrad.options import Options, checked, parse_seeds
from rlgrad.report import print_summary


@contextmanager
def _uncollected() -> Iterator[None]:
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
    """Modules to import first, which register environments."""
    env_kwargs: tuple[str, ...] = ()
    """key:value pairs for the environment's constructor, such as map_name:8x8."""
    peer_arg: tuple[str, ...] = ()
    """key:value pairs for the algorithm of a peer (sb3-ppo), such as learning_rate:0.001."""
    json: bool = False
    """Print the result as JSON on standard output."""
    run: tyro.conf.OmitArgPrefixes[Options] = field(default_factory=Options)
    config: tyro.conf.OmitArgPrefixes[Config] = field(default_factory=Config)

    def execute(self, chosen: dict[str, Any]) -> int:
        """Train, print the summary; 1 where a seed failed, 128 + signal where one stopped it."""
        with _uncollected():
            from rlgrad.training import start

        if self.seed is not None and self.seeds is not None:
            raise UsageError("got both --seed and --seeds; expected one of them")
        seeds = parse_seeds([self.seed or 0] if self.seeds is None else self.seeds)
        resolved = cards.resolve(
            self.env, self.agent, chosen.pop("estimator", None), chosen,
            parse_pairs(self.env_kwargs, "--env-kwargs"), self.env_module,
            parse_pairs(self.peer_arg, "--peer-arg"),
        )  # fmt: skip
        session = start(resolved, seeds, checked(dataclasses.asdict(self.run)))
        session.go()
        result = session.result()
        if self.json:
            print(json.dumps(result))
        print_summary(result, self.run.log_dir)
        if session.signal:
            return 128 + session.signal
        return int(any(seed["status"] == "failed" for seed in result["seeds"]))


Command = type[Train] | type[Compare] | type[Evaluate] | type[Variance] | type[List]
COMMANDS: dict[str, Command] = {
    "train": Train,
    "compare": Compare,
    "evaluate": Evaluate,
    "variance": Variance,
    "list": List,
}


FLAGS: dict[type, Flags] = {
    Train: flags_of(Train, Options, Config),
    **{command: flags_of(command) for command in (Compare, Evaluate, Variance, List)},
}
for _table in ("run", "config"):
    del FLAGS[Train][_table]


def _defaults(arguments: Sequence[str]) -> Config:
    """The card's values, which the flags of ``train`` show and start from."""
    agent, estimator = value_of(arguments, "--agent"), value_of(arguments, "--estimator")
    env = positional(FLAGS[Train], arguments)
    if env is None and not {"-h", "--help"} & set(arguments):
        raise UsageError("train needs an environment: rlgrad train CartPole-v1")
    return cards.resolve(env or "", agent, estimator).config


def _run(name: str, arguments: Sequence[str]) -> int:
    command = COMMANDS[name]
    normal = spelled(FLAGS[command], arguments)
    if command is not Train:
        return int(parse(command, name, normal).execute({}))
    config = _defaults(normal)
    parsed = parse(
        command,
        name,
        normal,
        default=Train(positional(FLAGS[Train], normal) or "ENV", config=config),
    )
    given = {
        token[2:].replace("-", "_").removeprefix("no_") for token in normal if token[:2] == "--"
    }
    chosen = {key: getattr(parsed.config, key) for key in FIELDS if key in given}
    return int(parsed.execute(chosen))


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 1 a seed failed, 2 bad input, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else "--help"
    try:
        if name in ("-h", "--help", "help"):
            print(usage())
            return 0
        if name in ("-V", "--version"):
            print(f"rlgrad {rlgrad.__version__}")
            return 0
        if name not in COMMANDS:
            raise UsageError(f"unknown command {name!r}; {nearest(name, COMMANDS)}")
        return _run(name, arguments[1:])
    except UsageError as error:
        print(f"rlgrad: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("rlgrad: interrupted", file=sys.stderr)
        return 130
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            print(f"rlgrad: {error}", file=sys.stderr)
            return 2
        sys.stderr.close()
        return 141


def usage() -> str:
    """The overview that ``rlgrad --help`` prints."""
    lines = [
        "usage: rlgrad COMMAND ...",
        "",
        rlgrad.__doc__ or "",
        "",
        "commands:",
        *(f"  {name:10s} {(c.__doc__ or '').splitlines()[0]}" for name, c in COMMANDS.items()),
        "",
        "  rlgrad train CartPole-v1 --estimator relax",
        "  rlgrad compare CartPole-v1 --agents actor-critic,relax --seeds 20",
        "  rlgrad variance bandit",
        "  rlgrad COMMAND --help shows a command's options",
    ]
    return "\n".join(lines)
