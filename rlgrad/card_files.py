"""Cards in files: agents and environments as TOML tables with known keys of the right type only.

Cards are looked up in ``./agents`` and ``./envs`` of the working directory, then in the package (a
wheel carries them inside, a checkout beside it).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rlgrad.config import check
from rlgrad.errors import UsageError, nearest, shown
from rlgrad.naming import namespace, safe_name
from rlgrad.options import parse_seeds
from rlgrad.peer_cards import PREFIX, check_path, check_settings, check_trusted
from rlgrad.reading import read_toml

_PACKAGE = Path(__file__).resolve().parent
TUNING = {
    "tuned_trials": int,
    "space": str,
    "seeds": str,
    "judged_by": str,
    "cpu_hours": float,
    "source": str,
}
"""What a card may tell of how its settings were found, so that comparisons can say it."""


@dataclass(frozen=True)
class AgentCard:
    """An agent: signal x estimator and its hyperparameters, with overrides per environment.

    Or a peer: an algorithm of Stable-Baselines3; ``config`` are then settings of a ``Peer``.
    """

    name: str
    path: Path | None
    summary: str
    source: str
    config: dict[str, Any]
    environments: dict[str, dict[str, Any]] = field(default_factory=dict)
    algorithm: str = ""
    """Python path of a peer's class; empty: one of rlgrad's agents."""
    tuning: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By environment, the effort behind the settings: see ``TUNING``."""


@dataclass(frozen=True)
class EnvCard:
    """An environment: Gymnasium id, simulator, score at which it counts as solved, references."""

    id: str
    path: Path | None = None
    summary: str = ""
    simulator: str = ""
    solved_at: float | None = None
    config: dict[str, Any] = field(default_factory=dict)
    references: tuple[dict[str, Any], ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    """For the environment's constructor."""
    modules: tuple[str, ...] = ()
    """To import first; from flags alone, since a card must not run code."""
    masked: bool = False
    """Whether the environment's action masks are used; found out by who makes it."""


def _places(kind: str) -> list[Path]:
    inside = _PACKAGE / kind
    beside = _PACKAGE.parent / kind
    places = [Path.cwd() / kind, inside if inside.is_dir() else beside]
    return [place for place in dict.fromkeys(place.resolve() for place in places) if place.is_dir()]


def is_local(path: Path) -> bool:
    """Whether a card is the user's own, not the package's."""
    return path.parent.parent not in (_PACKAGE, _PACKAGE.parent)


def find(kind: str) -> dict[str, Path]:
    """Card files of a kind ("agents", "envs") by name; the working directory's win."""
    found: dict[str, Path] = {}
    for place in _places(kind):
        for path in sorted(place.glob("*.toml"), key=lambda card: card.stem):
            found.setdefault(path.stem, path)
    return found


def _read(path: Path, required: set[str], optional: Mapping[str, Any]) -> dict[str, Any]:
    """A card's table with known keys of the right type only."""
    try:
        card = read_toml(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as a card: {error}") from None
    for key, value in card.items():
        if key not in optional:
            raise UsageError(f"{path}: unknown key {shown(key)}; {nearest(key, optional)}")
        kinds = (int, float) if optional[key] is float else optional[key]
        if not isinstance(value, kinds) or isinstance(value, bool):
            expected = {dict: "table", list: "array of tables"}.get(
                optional[key], optional[key].__name__
            )
            raise UsageError(f"{path}: {key} = {shown(value)}; expected {expected}")
    for key in sorted(required - card.keys()):
        raise UsageError(f"{path}: no {key!r}; a card needs {', '.join(sorted(required))}")
    return card


def _check_reference(path: Path, reference: Any) -> None:
    """A score is refused unless it says whose it is, where it stands and how it was measured."""
    if not isinstance(reference, dict):
        raise UsageError(f"{path}: references = {shown(reference)}; expected array of tables")
    needed = ("agent", "score", "source", "protocol")
    missing = [key for key in needed if reference.get(key, "") == ""]
    if missing:
        raise UsageError(
            f"{path}: a reference has no {', '.join(missing)}; "
            "a score without its source and protocol is refused"
        )
    if type(reference["score"]) not in (int, float):
        raise UsageError(f"{path}: score = {shown(reference['score'])}; expected a number")


def read_agent(path: Path) -> AgentCard:
    """The agent card in a file.

    Raises:
        UsageError: naming file, key and what was expected.
    """
    kinds = {
        "summary": str,
        "source": str,
        "config": dict,
        "environments": dict,
        "algorithm": str,
        "arguments": dict,
        "tuning": dict,
    }
    card = _read(path, {"summary", "source"}, kinds)
    algorithm = card.get("algorithm", "")
    name, other = ("arguments", "config") if algorithm else ("config", "arguments")
    if name not in card or other in card:
        came = f"no {name!r}" if name not in card else f"{other!r} beside {name!r}"
        raise UsageError(
            f"{path}: {came}; an agent's card needs config, source, summary; a peer's needs "
            "algorithm, arguments, source, summary"
        )
    verify = check_settings if algorithm else check
    sections = {}
    for env, table in card.get("environments", {}).items():
        if not isinstance(table, dict):
            raise UsageError(f"{path}: environments.{env} = {shown(table)}; expected table")
        sections[env] = verify(table, f"{path} [environments.{env!r}]")
    if algorithm:
        check_trusted(algorithm, str(path))
    config = verify(card[name], f"{path} [{name}]")
    tuning = {env: _check_tuning(path, env, table) for env, table in card.get("tuning", {}).items()}
    about = card["summary"], card["source"]
    return AgentCard(path.stem, path, *about, config, sections, algorithm, tuning)


def _check_tuning(path: Path, env: str, table: Any) -> dict[str, Any]:
    """The record of a tuning, each key of which has its type."""
    where = f"{path} [tuning.{env!r}]"
    if not isinstance(table, dict):
        raise UsageError(f"{where} = {shown(table)}; expected table")
    for key, value in table.items():
        if key not in TUNING:
            raise UsageError(f"{where}: unknown key {shown(key)}; {nearest(key, TUNING)}")
        if type(value) is not TUNING[key]:
            raise UsageError(f"{where}: {key} = {shown(value)}; expected {TUNING[key].__name__}")
    if "seeds" in table:
        try:
            parse_seeds(table["seeds"])
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from None
    return table


def read_env(path: Path) -> EnvCard:
    """The environment card in a file.

    Raises:
        UsageError: naming file, key and what was expected; also for a reference score without
            source or protocol.
    """
    kinds = {
        "id": str,
        "summary": str,
        "simulator": str,
        "solved_at": float,
        "config": dict,
        "references": list,
        "kwargs": dict,
    }
    card = _read(path, {"id", "summary"}, kinds)
    for reference in card.get("references", []):
        _check_reference(path, reference)
    config = check(card.get("config", {}), f"{path} [config]")
    solved_at = card.get("solved_at")
    if solved_at is not None and not abs(solved_at) <= sys.float_info.max:
        raise UsageError(f"{path}: solved_at = {solved_at}; expected a finite score")
    return EnvCard(
        card["id"],
        path,
        card["summary"],
        card.get("simulator", ""),
        None if solved_at is None else float(solved_at),
        config,
        tuple(card.get("references", [])),
        card.get("kwargs", {}),
    )


def agent_card(name: str) -> AgentCard:
    """The agent card of a name, or UsageError with the nearest names; ``sb3:`` makes one."""
    if name.startswith(PREFIX):
        path = check_path(name.removeprefix(PREFIX), "--agent")
        return AgentCard(name, None, "", "", {}, algorithm=path)
    cards = find("agents")
    if name not in cards:
        raise UsageError(f"unknown agent {name!r}; {nearest(name, cards)}")
    return read_agent(cards[name])


def env_card(env_id: str) -> EnvCard:
    """The card of an environment id, or an empty one: any Gymnasium id works without a card.

    ``ALE/Pong-v5`` without a card of its own takes that of its namespace, ``ALE``.
    """
    cards, name = find("envs"), namespace(env_id)
    path = cards.get(safe_name(env_id)) or (cards.get(name) if name else None)
    card = read_env(path) if path else EnvCard(env_id)
    if name and card.id == name:
        return replace(card, id=env_id)
    if card.id != env_id:
        raise UsageError(f"{path}: id = {card.id!r}; expected {env_id!r}, as the file's name says")
    return card
