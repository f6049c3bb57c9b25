"""From what was typed to typed values: spellings, and errors of one line."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import re
import shutil
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import tyro

from rlgrad.cluster.address import ADDRESS
from rlgrad.errors import UsageError, nearest

NARROWEST = 40
BORDER = re.compile(r"╭|[│╰╯─ -]*$")
COLOUR = re.compile("\x1b\\[[0-9;]*m")
Flags = dict[str, dataclasses.Field[Any]]


def parse_pairs(pairs: Sequence[str], flag: str) -> dict[str, Any]:
    """``key:value`` pairs; values are JSON where they parse as such, else strings."""
    kwargs: dict[str, Any] = {}
    for pair in pairs:
        key, colon, text = pair.partition(":")
        if not colon or not key.isidentifier():
            raise UsageError(f"got {flag} {pair!r}; expected key:value")
        try:
            kwargs[key] = json.loads({"True": "true", "False": "false"}.get(text, text))
        except ValueError:
            kwargs[key] = text
        if kwargs[key] is None:
            raise UsageError(f"got {flag} {pair!r}; leave a value out instead of null")
    return kwargs


def flags_of(*kinds: type) -> Flags:
    """Flag names without dashes (underscored) to the field that says their type."""
    return {field.name: field for kind in kinds for field in dataclasses.fields(kind)}


def spelled(flags: Flags, arguments: Sequence[str]) -> list[str]:
    """Arguments with ``-n`` spelled out, ``--flag=value`` split, 5e5 as an int where one is due.

    Raises:
        UsageError: for an unknown option, with the nearest known ones.
    """
    tokens, name = [], ""
    for token in _completed(arguments):
        head, equals, value = token.partition("=")
        flag = head.startswith("--") or head == "-n"
        parts = [head, value] if equals and flag else [token]
        for part in parts:
            if part == "-n":
                part = "--total-timesteps"
            number = part.lstrip("-")[:1].isdigit() or part[1:2] == "."
            if part.startswith("-") and not number and part not in ("-h", "--help"):
                name = part.lstrip("-").replace("-", "_")
                if name not in flags and name.removeprefix("no_") not in flags:
                    known = [f"--{flag.replace('_', '-')}" for flag in flags]
                    raise UsageError(f"unknown option {part}; {nearest(part, known)}")
            elif str(getattr(flags.get(name), "type", "")).partition(" ")[0] == "int":
                part = _whole(part)
            tokens.append(part)
    return _gathered(flags, tokens)


def _completed(tokens: Sequence[str]) -> list[str]:
    """``--ray`` without an address is ``--ray auto``."""
    found: list[str] = []
    for token, following in zip(tokens, [*tokens, ""][1:], strict=True):
        found.append(token)
        if token == "--ray" and not (ADDRESS.fullmatch(following) or "://" in following):
            found.append("auto")
    return found


def _gathered(flags: Flags, tokens: Sequence[str]) -> list[str]:
    """Tokens where each flag that takes a list of texts stands once, at the end, with all of it."""
    others: list[str] = []
    lists: dict[str, list[str]] = {}
    now = others
    for token in tokens:
        if token.startswith("--"):
            kind = str(getattr(flags.get(token[2:].replace("-", "_")), "type", ""))
            now = lists.setdefault(token, []) if kind.startswith("tuple[str") else others
            if now is not others:
                continue
        now.append(token)
    return [*others, *(token for flag, values in lists.items() for token in (flag, *values))]


def _whole(text: str) -> str:
    """5e5 as 500000; what is no whole number is left for the parser to name."""
    with contextlib.suppress(ValueError):
        return str(int(text))
    with contextlib.suppress(ValueError, OverflowError):
        return str(int(float(text))) if float(text).is_integer() else text
    return text


def value_of(arguments: Sequence[str], flag: str) -> str | None:
    """The last value given to a flag."""
    at = [i for i, token in enumerate(arguments) if token == flag]
    value = arguments[at[-1] + 1] if at and at[-1] + 1 < len(arguments) else None
    if at and (value is None or value.startswith("--")):
        raise UsageError(f"{flag} needs a value")
    return value


def positional(flags: Flags, arguments: Sequence[str]) -> str | None:
    """The first argument that is no flag and no flag's value."""
    skip = 0
    for token in arguments:
        if token.startswith("--"):
            kind = str(getattr(flags.get(token[2:].replace("-", "_")), "type", "bool"))
            skip = 0 if kind.startswith("bool") else len(arguments) if "tuple" in kind else 1
        elif skip:
            skip -= 1
        elif not token.startswith("-"):
            return token
    return None


def parse(command: type, name: str, arguments: Sequence[str], **kwargs: Any) -> Any:
    """Parse by tyro, with its boxed error as one line."""
    caught = io.StringIO()
    if shutil.get_terminal_size().columns < NARROWEST:
        os.environ["COLUMNS"] = str(NARROWEST)  # tyro's help never ends on a narrower terminal
    try:
        with contextlib.redirect_stderr(caught):
            tyro.extras.set_accent_color("cyan")  # its dim white cannot be read on a light ground
            # tyro leaves a positional with a default out of the usage line.
            prog = f"rlgrad {name} ENV" if "default" in kwargs else f"rlgrad {name}"
            return tyro.cli(command, prog=prog, args=list(arguments), **kwargs)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        # A box with its title in the border, or on plain terminals a title, a rule and the text.
        lines = COLOUR.sub("", caught.getvalue()).splitlines()
        text = ["" if BORDER.match(line) else line.strip("│ ") for line in lines]
        blocks = [list(block) for full, block in groupby(text, bool) if full]
        chosen = blocks[:1] if lines and lines[0].startswith("╭") else blocks[1:2]
        line = " ".join(*chosen).rstrip(".") if chosen else "bad arguments"
        line = line.replace("'--total-timesteps'", "'-n/--total-timesteps'")
        raise UsageError(f"{line} (see rlgrad {name} --help)") from None
