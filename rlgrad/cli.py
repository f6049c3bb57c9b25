"""The command line. Commands are dataclasses; the resolved card gives their flags' defaults."""

from __future__ import annotations

import dataclasses
import shutil
import sys
import textwrap
import warnings
from collections.abc import Sequence
from typing import Any

import rlgrad
from rlgrad import cards, terminal
from rlgrad.allocator import keep_freed_memory
from rlgrad.arguments import Flags, flags_of, parse, positional, spelled, value_of
from rlgrad.commands import Evaluate, List, Variance
from rlgrad.comparison.command import Compare
from rlgrad.config import Config
from rlgrad.doctor.command import Doctor
from rlgrad.errors import UsageError, is_out_of_memory, nearest, out_of_memory
from rlgrad.exporting.command import Export
from rlgrad.helptexts import flow
from rlgrad.options import Options
from rlgrad.ranks.launch import hush, refuse
from rlgrad.ranks.telling import tell
from rlgrad.train_commands import Resume, Train
from rlgrad.tuning.command import Tune
from rlgrad.watching.command import Watch

Command = (
    type[Train] | type[Resume] | type[Compare] | type[Tune] | type[Evaluate] | type[Watch]
    | type[Export] | type[Variance] | type[List] | type[Doctor]
)  # fmt: skip
COMMANDS: dict[str, Command] = {
    "train": Train,
    "resume": Resume,
    "compare": Compare,
    "tune": Tune,
    "evaluate": Evaluate,
    "watch": Watch,
    "export": Export,
    "variance": Variance,
    "list": List,
    "doctor": Doctor,
}


TABLES: dict[type, tuple[type, ...]] = {Train: (Options, Config), Resume: (Options,)}
"""Whose fields are flags of a command beside its own."""
FLAGS: dict[type, Flags] = {
    command: flags_of(command, *TABLES.get(command, ())) for command in COMMANDS.values()
}
for _command, _table in ((Train, "run"), (Train, "config"), (Resume, "run")):
    del FLAGS[_command][_table]


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
    if {"-h", "--help"} & set(normal):
        flow(command, *TABLES.get(command, ()))
    given = {
        token[2:].replace("-", "_").removeprefix("no_") for token in normal if token[:2] == "--"
    }
    if command is not Train:
        parsed = parse(command, name, normal)
        return int(parsed.execute(_chosen(parsed.run, given) if command is Resume else {}))
    config = _defaults(normal)
    parsed = parse(
        command,
        name,
        normal,
        default=Train(positional(FLAGS[Train], normal) or "ENV", config=config),
    )
    return int(parsed.execute(_chosen(parsed.config, given) | _chosen(parsed.run, given)))


def _chosen(table: Any, given: set[str]) -> dict[str, Any]:
    """The fields of a dataclass that were given as flags."""
    names = (field.name for field in dataclasses.fields(table))
    return {name: getattr(table, name) for name in names if name in given}


def _answer(name: str, arguments: list[str]) -> int:
    """Run a command; its exit status."""
    if name in ("-h", "--help", "help"):
        terminal.out(usage())
        return 0
    if name in ("-V", "--version"):
        terminal.out(f"rlgrad {rlgrad.__version__}")
        return 0
    if name not in COMMANDS:
        raise UsageError(f"unknown command {name!r}; {nearest(name, COMMANDS)}")
    hush()
    if COMMANDS[name] not in (Train, Resume):
        refuse(f"rlgrad {name}", "call it without torchrun")
    return _run(name, arguments)


def _note(message: Warning | str, *where: Any, **more: Any) -> None:
    """A warning in a line: which line of code it came of is no help at a terminal."""
    terminal.tell(f"note: {' '.join(str(message).split())}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 1 a seed failed, 2 bad input, 130 interrupted."""
    keep_freed_memory()
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else "--help"
    terminal.open_standard()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _note
            status = _answer(name, arguments[1:])
        terminal.out(end="")
        return status
    except KeyboardInterrupt as error:
        tell(str(error) or "interrupted")
        return 130
    except BrokenPipeError:
        return 141
    except (OSError, UsageError) as error:
        tell(error)
        return 2
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        tell(out_of_memory(error))
        return 2
    finally:
        terminal.drop_output()


def usage() -> str:
    """The overview that ``rlgrad --help`` prints."""
    width = max(40, shutil.get_terminal_size().columns - 1)

    def wrapped(text: str, first: str = "") -> str:
        return textwrap.fill(text, width, initial_indent=first, subsequent_indent=" " * len(first))

    lines = [
        "usage: rlgrad COMMAND ...",
        "",
        wrapped(rlgrad.__doc__ or ""),
        "",
        "commands:",
        *(wrapped((c.__doc__ or "").split("\n")[0], f"  {n:10s} ") for n, c in COMMANDS.items()),
        "",
        "  rlgrad train CartPole-v1 --estimator relax",
        "  rlgrad resume latest",
        "  rlgrad compare CartPole-v1 --agents actor-critic,relax --seeds 20",
        "  rlgrad variance bandit",
        "  rlgrad COMMAND --help shows a command's options",
    ]
    return "\n".join(lines)
