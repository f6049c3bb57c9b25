"""From an environment id to a vector environment with Box observations and discrete actions."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers import FlattenObservation

from rlgrad.atari import STEPS, AtariEnv, AtariLanes, is_atari
from rlgrad.card_files import EnvCard
from rlgrad.errors import UsageError, nearest, raised, shown
from rlgrad.finding import import_module, spec
from rlgrad.info_notes import NOTHING, Counted, InfoNotes
from rlgrad.masking import Masked
from rlgrad.pooled import PooledVectorEnv
from rlgrad.rows import Lane
from rlgrad.seeded import SeededEpisodes
from rlgrad.simulators import SIMULATORS
from rlgrad.vectorising import vectorise

_SUPPORTED = (
    "supported are Discrete, MultiDiscrete and MultiBinary actions, and Box, Discrete, "
    "MultiDiscrete, MultiBinary, Tuple or Dict observations"
)


def check_spaces(env_id: str, observation: Space[Any], action: Space[Any]) -> None:
    """Refuse what the agents cannot serve, and say what they can."""
    if not isinstance(action, (Discrete, MultiDiscrete, MultiBinary)):
        kind = "continuous" if isinstance(action, Box) else "unsupported"
        raise UsageError(f"{env_id} has a {kind} action space {action}; {_SUPPORTED}")
    members = [observation]
    while members:
        member = members.pop()
        if isinstance(member, Tuple):
            members.extend(member.spaces)
        elif isinstance(member, Dict):
            members.extend(member.spaces.values())
        elif not isinstance(member, (Box, Discrete, MultiDiscrete, MultiBinary)):
            raise UsageError(f"{env_id} has an observation space with {member}; {_SUPPORTED}")


def _kwargs(env_kwargs: Mapping[str, Any] | None, max_episode_steps: int) -> dict[str, Any]:
    kwargs = dict(env_kwargs or {})
    if max_episode_steps:
        kwargs["max_episode_steps"] = max_episode_steps
    return kwargs


def make_bare(
    env_id: str, env_kwargs: Mapping[str, Any] | None = None, max_episode_steps: int = 0
) -> gymnasium.Env[Any, Any]:
    """One unrendered environment as Gymnasium makes it, unchecked; Atari's with preprocessing."""
    if is_atari(env_id):
        return AtariEnv(spec(env_id), env_kwargs or {}, max_episode_steps)
    return gymnasium.make(spec(env_id).id, **_kwargs(env_kwargs, max_episode_steps))


def make_one(
    env_id: str, env_kwargs: Mapping[str, Any] | None = None, max_episode_steps: int = 0
) -> gymnasium.Env[Any, Any]:
    """One unrendered environment, spaces checked, observations as they are.

    Raises:
        UsageError: for an unknown id or unsupported space, or where making it raises.
    """
    spec(env_id)
    try:
        env = make_bare(env_id, env_kwargs, max_episode_steps)
        given = env.reset(seed=0)
        if not (isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], dict)):
            raise TypeError(f"reset gave {shown(given)}; expected a pair (observation, info)")
    except (Exception, SystemExit) as error:
        raise UsageError(f"{env_id} cannot be made: {raised(error)}") from None
    check_spaces(env_id, env.observation_space, env.action_space)
    return env


def time_limit(env_id: str, max_episode_steps: int = 0) -> int | None:
    """Env steps after which episodes are truncated; None: never."""
    own = STEPS if is_atari(env_id) else spec(env_id).max_episode_steps
    return max_episode_steps or own


def make_gymnasium(
    env_id: str,
    num_envs: int,
    env_kwargs: Mapping[str, Any] | None = None,
    max_episode_steps: int = 0,
    autoreset: AutoresetMode = AutoresetMode.SAME_STEP,
    masked: bool = False,
) -> VectorEnv[Any, Any, Any]:
    """Gymnasium's own environment, vectorised in this process, one seed per lane and episode."""
    lane = functools.partial(_seeded, env_id, env_kwargs, max_episode_steps, masked=masked)
    if autoreset is AutoresetMode.SAME_STEP:
        return vectorise(lane, num_envs, "sync")
    return gymnasium.vector.SyncVectorEnv([lane] * num_envs, autoreset_mode=autoreset)


def score_to_solve(card: EnvCard, needed: bool = False) -> float | None:
    """Mean return at which an environment counts as solved: the card's, else Gymnasium's.

    Raises:
        UsageError: where it is needed, and there is none.
    """
    score = spec(card.id).reward_threshold if card.solved_at is None else card.solved_at
    if needed and score is None:
        raise UsageError(
            f"{card.id} has no score at which it counts as solved, so "
            "--stop-when-solved cannot work; give its card a solved_at"
        )
    return None if score is None else float(score)


def _seeded(
    env_id: str,
    env_kwargs: Mapping[str, Any] | None,
    max_episode_steps: int,
    modules: Sequence[str] = (),
    masked: bool = False,
    infos: Counted = NOTHING,
) -> gymnasium.Env[Any, Any]:
    for module in modules:  # a worker process may not have them yet
        import_module(module)
    env = make_one(env_id, env_kwargs, max_episode_steps)
    if infos.keys:
        env = InfoNotes(env, infos)
    if not isinstance(env.observation_space, Box):
        env = FlattenObservation(env)
    return SeededEpisodes(Masked(env) if masked else env)


def make_lane(card: EnvCard, max_episode_steps: int, infos: Counted = NOTHING) -> Lane:
    """What makes one lane: Box observations, every episode with a seed of its own."""
    made = functools.partial(_seeded, card.id, card.kwargs, max_episode_steps, card.modules)
    return functools.partial(made, masked=card.masked, infos=infos)


def is_simulated(card: EnvCard, vec: str = "auto") -> bool:
    """Whether training runs on a simulator; it knows no constructor arguments."""
    known = bool(card.simulator or card.id in SIMULATORS)
    return known and not card.kwargs and vec in ("auto", "simulator")


def _pooled(env_id: str, num_envs: int, max_episode_steps: int) -> VectorEnv[Any, Any, Any]:
    """EnvPool's version of an environment, where an agent of it can be evaluated on Gymnasium's."""
    env, one = PooledVectorEnv(env_id, num_envs, max_episode_steps), make_one(env_id)
    theirs = env.single_observation_space.shape, env.single_action_space
    expected = one.observation_space.shape, one.action_space
    one.close()
    if theirs != expected:
        env.close()
        raise UsageError(
            f"EnvPool's {env_id} has observations {theirs[0]} and actions {theirs[1]}; Gymnasium's "
            f"has {expected[0]} and {expected[1]}: use --vec auto"
        )
    return env


def make_training(
    card: EnvCard,
    num_envs: int,
    max_episode_steps: int = 0,
    device: torch.device | str = "cpu",
    vec: str = "auto",
    infos: Counted = NOTHING,
) -> VectorEnv[Any, Any, Any]:
    """What an agent trains on: the card's simulator, else Gymnasium's environment.

    Args:
        card: of the environment.
        num_envs: lanes.
        max_episode_steps: 0: the environment's own limit.
        device: of a simulator; Gymnasium's environments step on the CPU.
        vec: auto: the simulator, where there is one, else sync; else what is to step them.
        infos: what is counted of them, where Gymnasium's environments are stepped.
    """
    if vec == "envpool":
        if card.kwargs:
            raise UsageError("--vec envpool takes no --env-kwargs; use --vec auto")
        return _pooled(card.id, num_envs, max_episode_steps)
    if vec == "ale":
        if not is_atari(card.id):
            raise UsageError(f"--vec ale steps ALE/...-v5 alone, not {card.id}; use --vec auto")
        return AtariLanes(spec(card.id), num_envs, card.kwargs, max_episode_steps)
    if not is_simulated(card, vec):
        return vectorise(make_lane(card, max_episode_steps, infos), num_envs, vec)
    name = card.simulator or card.id
    if name not in SIMULATORS:
        raise UsageError(
            f"{card.path}: unknown simulator {shown(name)}; {nearest(name, SIMULATORS)}"
        )
    options, mode = _kwargs(None, max_episode_steps), "vector_entry_point"
    env = gymnasium.make_vec(name, num_envs, vectorization_mode=mode, device=device, **options)
    one = make_one(card.id)
    if (env.single_observation_space, env.single_action_space) != (
        one.observation_space,
        one.action_space,
    ):
        raise UsageError(f"{card.path}: simulator {name} cannot stand in: its spaces differ")
    one.close()
    return env


def make_evaluation(
    env_id: str,
    num_envs: int,
    env_kwargs: Mapping[str, Any] | None = None,
    max_episode_steps: int = 0,
    masked: bool = False,
) -> VectorEnv[Any, Any, Any]:
    """Gymnasium's own environment, never a simulator; its own batched class where it has one.

    Args:
        env_id: Gymnasium id.
        num_envs: lanes.
        env_kwargs: for the environment's constructor.
        max_episode_steps: 0: the environment's own limit.
        masked: whether observations carry the environment's action masks, see ``masking``.
    """
    found = spec(env_id)
    if is_atari(env_id):
        whole = {key: x for key, x in (env_kwargs or {}).items() if key != "episodic_life"}
        return AtariLanes(found, num_envs, whole, max_episode_steps)
    own = str(found.vector_entry_point or "").startswith("gymnasium.envs.classic_control")
    if own and not masked and not env_kwargs and not found.additional_wrappers:
        options = _kwargs(None, max_episode_steps)
        return gymnasium.make_vec(
            found.id, num_envs, vectorization_mode="vector_entry_point", **options
        )
    return make_gymnasium(env_id, num_envs, env_kwargs, max_episode_steps, masked=masked)
