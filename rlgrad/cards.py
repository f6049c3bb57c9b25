"""Agents and environments as data: TOML cards, found, checked and resolved to one ``Config``.

Cards are looked up in ``./agents`` and ``./envs`` of the working directory, then in the package (a
wheel carries them inside, a checkout beside it).
"""

from __future__ import annotations

import dataclasses
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from rlgrad.config import ESTIMATOR_OPTIONS, Config, check
from rlgrad.errors import UsageError, nearest, shown

_PACKAGE = Path(__file__).resolve().parent
LARGEST = 1 << 20


@dataclass(frozen=True)
class AgentCard:
    """An agent: signal x estimator and its hyperparameters, with overrides per environment."""

    name: str
    path: Path
    summary: str
    source: str
    config: dict[str, Any]
    environments: dict[str, dict[str, Any]] = field(default_factory=dict)


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


@dataclass(frozen=True)
class Resolved:
    """What a run is made of: defaults < environment card < agent card < its section < flags."""

    env: EnvCard
    agent: str
    config: Config
    notes: tuple[str, ...]
    """What the user should hear: which local cards were used, which defaults stood in."""


def safe_name(name: str) -> str:
    """A name that is one harmless path component: ``ALE/Pong-v5`` -> ``ALE-Pong-v5``."""
    safe = re.sub(r"[^A-Za-z0-9._+-]", "-", name).lstrip(".")[:120]
    return safe or "unnamed"


def _places(kind: str) -> list[Path]:
    inside = _PACKAGE / kind
    beside = _PACKAGE.parent / kind
    places = [Path.cwd() / kind, inside if inside.is_dir() else beside]
    return [place for place in dict.fromkeys(place.resolve() for place in places) if place.is_dir()]


def _is_local(path: Path) -> bool:
    return path.parent.parent not in (_PACKAGE, _PACKAGE.parent)


def find(kind: str) -> dict[str, Path]:
    """Card files of a kind ("agents", "envs") by name; the working directory's win."""
    found: dict[str, Path] = {}
    for place in _places(kind):
        for path in sorted(place.glob("*.toml")):
            found.setdefault(path.stem, path)
    return found


def _read(path: Path, required: set[str], optional: Mapping[str, Any]) -> dict[str, Any]:
    """A card's table with known keys of the right type only."""
    try:
        if path.stat().st_size > LARGEST:
            raise UsageError(f"{path}: larger than {LARGEST:,} bytes; a card is a short text")
        card = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as a card: {error}") from None
    except (ValueError, RecursionError) as error:  # ValueError: TOML's own, or too many digits
        raise UsageError(f"{path}: not valid TOML: {error}") from None
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


def read_agent(path: Path) -> AgentCard:
    """The agent card in a file.

    Raises:
        UsageError: naming file, key and what was expected.
    """
    kinds = {"summary": str, "source": str, "config": dict, "environments": dict}
    card = _read(path, {"summary", "source", "config"}, kinds)
    sections = {}
    for env, table in card.get("environments", {}).items():
        if not isinstance(table, dict):
            raise UsageError(f"{path}: environments.{env} = {shown(table)}; expected table")
        sections[env] = check(table, f"{path} [environments.{env!r}]")
    config = check(card["config"], f"{path} [config]")
    return AgentCard(path.stem, path, card["summary"], card["source"], config, sections)


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
    """The agent card of a name, or UsageError with the nearest names."""
    cards = find("agents")
    if name not in cards:
        raise UsageError(f"unknown agent {name!r}; {nearest(name, cards)}")
    return read_agent(cards[name])


def env_card(env_id: str) -> EnvCard:
    """The card of an environment id, or an empty one: any Gymnasium id works without a card."""
    path = find("envs").get(safe_name(env_id))
    card = read_env(path) if path else EnvCard(env_id)
    if card.id != env_id:
        raise UsageError(f"{path}: id = {card.id!r}; expected {env_id!r}, as the file's name says")
    return card


def choose_agent(agent: str | None, estimator: str | None) -> tuple[AgentCard, str | None]:
    """The card that ``--agent`` and ``--estimator`` name, and the estimator put into it, if any."""
    cards = find("agents")
    if agent is None and estimator in cards:
        return agent_card(estimator), None
    return agent_card("actor-critic" if agent is None else agent), estimator


def resolve(
    env_id: str,
    agent: str | None = None,
    estimator: str | None = None,
    flags: Mapping[str, Any] | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    env_modules: Sequence[str] = (),
) -> Resolved:
    """Merge defaults < environment card < agent card < its section for the environment < flags.

    Args:
        env_id: Gymnasium id, with or without a card.
        agent: name of an agent card.
        estimator: name of an agent card or of an estimator; with ``agent``, replaces the card's.
        flags: values that override all cards.
        env_kwargs: for the environment's constructor, over the card's.
        env_modules: to import before the environment is made.

    Raises:
        UsageError: for unknown names, keys or wrong values.
    """
    env = env_card(env_id)
    kwargs = {**env.kwargs, **(env_kwargs or {})}
    try:
        tomli_w.dumps(kwargs)
    except (TypeError, ValueError, AttributeError):
        raise UsageError(
            f"env_kwargs = {shown(kwargs)}; expected text, numbers, flags, lists or tables, "
            "which the run's card can hold"
        ) from None
    env = dataclasses.replace(env, kwargs=kwargs, modules=tuple(env_modules))
    card, replaced = choose_agent(agent, estimator)
    flags = check(flags or {}, "arguments")
    section = card.environments.get(env_id, {})
    values = {**env.config, **card.config, **section}
    name = card.name
    if replaced is not None and replaced != values.get("estimator"):
        values = {k: v for k, v in values.items() if k not in ESTIMATOR_OPTIONS}
        values["estimator"] = replaced
        name = f"{card.name}+{replaced}"
    notes = [f"using {p}" for p in (env.path, card.path) if p is not None and _is_local(p)]
    if env.path is None:
        notes.append(
            f"{env_id} has no card: defaults stand in (observations and returns are normalised "
            "by running statistics); a card in ./envs or flags change them"
        )
    return Resolved(env, name, Config(**{**values, **flags}), tuple(notes))
