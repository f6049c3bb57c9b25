"""Cards and flags resolved to one ``Config``, and for a peer to its ``Peer``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tomli_w

from rlgrad.card_files import AgentCard, EnvCard, agent_card, env_card, find, is_local
from rlgrad.config import ESTIMATOR_OPTIONS, Config, check, own_module
from rlgrad.errors import UsageError, shown
from rlgrad.naming import namespace
from rlgrad.peer_cards import SHARED, Peer, check_settings, divide, refuse_flags
from rlgrad.reading import check_plain


@dataclass(frozen=True)
class Resolved:
    """What a run is made of: defaults < environment card < agent card < its section < flags."""

    env: EnvCard
    agent: str
    config: Config
    notes: tuple[str, ...]
    """What the user should hear: which local cards were used, which defaults stood in."""
    peer: Peer | None = None
    """What Stable-Baselines3 trains; of ``config`` only total_timesteps, num_envs and
    max_episode_steps then play a role."""
    tuning: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The effort behind the settings, as the card tells it; empty where flags changed them."""
    vec: str = ""
    """What steps the environments: simulator, sync, async, envpool or ale; empty: not yet chosen,
    or a peer's own way."""


def choose_agent(agent: str | None, estimator: str | None) -> tuple[AgentCard, str | None]:
    """The card that ``--agent`` and ``--estimator`` name, and the estimator put into it, if any."""
    cards = find("agents")
    if agent is None and estimator in cards:
        return agent_card(estimator), None
    return agent_card("actor-critic" if agent is None else agent), estimator


def _checked_kwargs(kwargs: dict[str, Any], name: str) -> dict[str, Any]:
    """Arguments that a run's card can hold."""
    try:
        tomli_w.dumps(kwargs)
        check_plain(kwargs)
    except (TypeError, ValueError, AttributeError, RecursionError):
        raise UsageError(
            f"{name} = {shown(kwargs)}; expected text, numbers, flags, lists or tables, "
            "which the run's card can hold"
        ) from None
    return kwargs


def resolve(
    env_id: str,
    agent: str | None = None,
    estimator: str | None = None,
    flags: Mapping[str, Any] | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    env_modules: Sequence[str] = (),
    peer_arguments: Mapping[str, Any] | None = None,
) -> Resolved:
    """Merge defaults < environment card < agent card < its section for the environment < flags.

    Args:
        env_id: Gymnasium id, with or without a card.
        agent: name of an agent card; ``sb3:`` and a Python path for a peer without one.
        estimator: name of an agent card or of an estimator, or ``module:Class``, whose module is
            then one to import; with ``agent``, replaces the card's.
        flags: values that override all cards.
        env_kwargs: for the environment's constructor, over the card's.
        env_modules: to import before anything is made.
        peer_arguments: for a peer's algorithm, over the card's.

    Raises:
        UsageError: for unknown names, keys or wrong values.
    """
    env = env_card(env_id)
    kwargs = _checked_kwargs({**env.kwargs, **(env_kwargs or {})}, "env_kwargs")
    env = dataclasses.replace(env, kwargs=kwargs, modules=(*env_modules, *own_module(estimator)))
    card, replaced = choose_agent(agent, estimator)
    flags = check(flags or {}, "arguments")
    notes = [f"using {p}" for p in (env.path, card.path) if p is not None and is_local(p)]
    if card.algorithm:
        if estimator is not None:
            raise UsageError(
                f"got --estimator {estimator}, and {card.name} is a peer, trained by "
                "Stable-Baselines3; expected --agent alone"
            )
        return _resolve_peer(env, card, flags, peer_arguments or {}, notes)
    if peer_arguments:
        raise UsageError(f"{card.name} is no peer and takes no peer arguments (--peer-arg)")
    section = card.environments.get(env_id, card.environments.get(namespace(env_id), {}))
    values = {**env.config, **card.config, **section}
    name = card.name
    if replaced is not None and replaced != values.get("estimator"):
        values = {k: v for k, v in values.items() if k not in ESTIMATOR_OPTIONS}
        values["estimator"] = replaced
        name = f"{card.name}+{replaced}"
    if env.path is None:
        notes.append(
            f"{env_id} has no card: defaults stand in (observations and returns are normalised "
            "by running statistics); a card in ./envs or flags change them"
        )
    tuning = {} if replaced or flags.keys() - set(SHARED) else card.tuning.get(env_id, {})
    return Resolved(env, name, Config(**{**values, **flags}), tuple(notes), tuning=tuning)


def _resolve_peer(
    env: EnvCard,
    card: AgentCard,
    flags: Mapping[str, Any],
    arguments: Mapping[str, Any],
    notes: Sequence[str],
) -> Resolved:
    """The same for a peer, which takes budget and time limit of the environment's card."""
    refuse_flags(card.name, flags)
    env = dataclasses.replace(env, simulator="")  # it trains on Gymnasium's own
    section, notes = card.environments.get(env.id), list(notes)
    own = check_settings(_checked_kwargs(dict(arguments), "peer_arguments"), "peer arguments")
    budget = {key: env.config[key] for key in SHARED if key in env.config and key != "num_envs"}
    settings = {**budget, **card.config, **(section or {}), **own, **flags}
    if section is None:
        notes.append(f"{card.name} has no settings for {env.id}: Stable-Baselines3's defaults")
    config, peer = divide(card.algorithm, settings)
    if "total_timesteps" not in settings:
        notes.append(f"{env.id} has no card: {config.total_timesteps:,} env steps; -n changes it")
    tuning = {} if own else card.tuning.get(env.id, {})
    return Resolved(env, card.name, config, tuple(notes), peer, tuning)
