"""A tuned card: the agent's card as it was, with two tables that the tuning fills."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlgrad.card_files import AgentCard, agent_card, read_agent
from rlgrad.errors import UsageError
from rlgrad.output import to_disk, write_whole
from rlgrad.tuning.records import Tuned


def targets(out: str | None, agents: Sequence[str], root: Path) -> dict[str, Path]:
    """Where the card of each agent goes, checked before anything is trained.

    Args:
        out: a file that ends in .toml, for one agent; or a folder. None: beside the studies.
        agents: names.
        root: folder of the studies.

    Raises:
        UsageError: for a file for several agents, one that is no agent's card, or a place that
            cannot be written.
    """
    if out is None:
        return {agent: root / f"{agent}.toml" for agent in agents}
    path = Path(out)
    if not out.strip() or (path.suffix == ".toml" and len(agents) > 1):
        came = "a file for several agents" if out.strip() else "nothing"
        raise UsageError(f"got --out {out!r}, {came}; expected a folder, such as agents")
    found = {agent: path / f"{agent}.toml" for agent in agents}
    if path.suffix == ".toml":
        found = dict.fromkeys(agents, path)
    for agent, file in found.items():
        _check_place(file, agent)
    return found


def _check_place(file: Path, agent: str) -> None:
    there = next(above for above in file.absolute().parents if above.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UsageError(f"nothing can be written to {there}; choose another place by --out")
    if file.is_dir():
        raise UsageError(f"{file} is a folder; choose another place by --out")
    if not file.exists():
        return
    there_is, tuned = read_agent(file).config, agent_card(agent).config
    for key in ("signal", "estimator"):
        if there_is.get(key) != tuned.get(key):
            raise UsageError(
                f"{file} is the card of another agent, with {key} = {there_is.get(key)!r} and not "
                f"{tuned.get(key)!r}; name another file by --out"
            )


def write(tuned: Tuned, file: Path) -> None:
    """Write the card of an agent with its best settings on the environment.

    A file that is there keeps all that is not about the environment; else it begins as the card
    that was tuned.

    Raises:
        UsageError: where it cannot be read or written, or says the tables in a way that cannot be
            replaced.
    """
    card = read_agent(file) if file.exists() else agent_card(tuned.agent)
    assert card.path is not None
    section = {**_section(card, tuned), **tuned.best.settings}
    text = card.path.read_text("utf-8")
    for kind, table in (("environments", section), ("tuning", tuned.record)):
        text = replaced(text, kind, tuned.env, table, str(card.path))
    with to_disk(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, text.encode())


def _section(card: AgentCard, tuned: Tuned) -> dict[str, Any]:
    """What the card said of the environment already."""
    return dict(card.environments.get(tuned.env, {}))


def replaced(text: str, kind: str, env: str, table: Mapping[str, Any], where: str) -> str:
    """A card's text with one table put in the place of what it said of an environment.

    Args:
        text: of the card; all else of it stays, comments too.
        kind: "environments" or "tuning".
        env: Gymnasium id.
        table: plain values and lists.
        where: the file, for the message.

    Raises:
        UsageError: where the table stands there in another form than under its own header.
    """
    body = "".join(f"{key} = {_value(value)}\n" for key, value in table.items())
    new = f'[{kind}."{env}"]\n{body}'
    name = rf"(?:\"{re.escape(env)}\"|'{re.escape(env)}'|{re.escape(env)})"
    header = rf"(?ms)^\[[ \t]*{kind}[ \t]*\.[ \t]*{name}[ \t]*\][^\n]*\n.*?(?=^\[|\Z)"
    if re.search(header, text):
        changed = re.sub(header, lambda _: new + "\n", text, count=1)
    else:
        after = re.search(r"(?m)^\[[ \t]*tuning\b", text) if kind == "environments" else None
        at = after.start() if after else len(text)
        changed = f"{text[:at].rstrip()}\n\n{new}\n{text[at:]}"
    changed = changed.rstrip() + "\n"
    _check_rest(text, changed, kind, env, table, where)
    return changed


def _check_rest(
    before: str, after: str, kind: str, env: str, table: Mapping[str, Any], where: str
) -> None:
    """Refuse a change that is not the one that was meant."""
    wanted = tomllib.loads(before)
    wanted.setdefault(kind, {})[env] = dict(table)
    try:
        found = tomllib.loads(after)
    except tomllib.TOMLDecodeError:
        found = {}
    if found != wanted:
        raise UsageError(
            f"{where}: its table {kind}.{env!r} stands in a form that cannot be replaced; write "
            "the tuned card to another file by --out"
        )


def _value(value: Any) -> str:
    """A value as TOML."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_value(each) for each in value)}]"
    if isinstance(value, (bool, str)):
        return json.dumps(value)
    return repr(value)
