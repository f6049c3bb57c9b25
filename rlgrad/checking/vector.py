"""``rlgrad.check_vector_env``: plays an environment several times and judges what it returned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, iterate

from rlgrad.checking import rules
from rlgrad.checking.findings import Collector, Report, VectorEnvError
from rlgrad.checking.forms import Forms, array, arrays
from rlgrad.checking.playing import actions_of, endings, equal, play
from rlgrad.checking.replays import Replays
from rlgrad.checking.watch import StopError, Watch
from rlgrad.errors import UsageError, raised, shown


def check_vector_env(
    env: VectorEnv[Any, Any, Any] | gymnasium.Env[Any, Any],
    *,
    steps: int = 300,
    seed: int = 0,
    max_episode_steps: int | None = None,
    single: Callable[[], gymnasium.Env[Any, Any]] | None = None,
) -> Report:
    """Check that a vector environment keeps what Gymnasium's interface promises.

    It is played with random actions, several times from the same seed, and reset at the end.
    Checked are: spaces and their batching; shapes, dtypes, ranges and device of all that is
    returned; rewards and flags; the form of infos; that equal seeds give equal plays, other seeds
    others, and lanes have streams of their own; that nothing returned is overwritten later or
    shared; the rows around the ends of episodes as the autoreset mode says; truncation at the
    time limit.

    Args:
        env: of any class, in any of the three autoreset modes; a single one is refused.
        steps: vector steps per play; there are up to nine plays.
        seed: of actions and resets.
        max_episode_steps: the time limit; None: what the environment says; 0: do not judge.
        single: makes one sub-environment; then every lane is compared, row by row, with it played
            alone, seeded with ``seed`` + lane as Gymnasium's vectorisers do.

    Returns:
        The report, without faults but perhaps with notes on what could not be judged.

    Raises:
        VectorEnvError: where the environment breaks a promise; it names all that were found.
        UsageError: where ``env`` is no vector environment at all.
    """
    if not isinstance(env, VectorEnv):
        raise UsageError(
            f"got a {type(env).__name__}; expected a gymnasium.vector.VectorEnv, such as "
            "gymnasium.make_vec makes"
        )
    if steps < 1:
        raise UsageError(f"got steps {steps}; expected at least 1")
    found, episodes = Collector(), 0
    try:
        episodes = _check(env, found, steps, seed, max_episode_steps, single)
    except StopError:
        pass
    except Exception as error:
        # Whatever an environment raises is what the check is there to find.
        found.add("raised", raised(error, 300))
    try:
        env.reset(seed=seed)
    except Exception as error:
        found.add("raised", f"the last reset: {raised(error, 300)}")
    spec = getattr(env, "spec", None)
    name = str(getattr(spec, "id", None) or type(env).__name__)
    notes = tuple(dict.fromkeys(found.notes))
    report = Report(name, found.faults(), notes, steps, episodes)
    if not report.ok:
        raise VectorEnvError(report)
    return report


def _check(
    env: VectorEnv[Any, Any, Any],
    found: Collector,
    steps: int,
    seed: int,
    limit: int | None,
    single: Callable[[], gymnasium.Env[Any, Any]] | None,
) -> int:
    """All checks, those that others rest on first; the number of episodes that ended."""
    mode = _interface(env, found)
    forms = Forms(env, found)
    actions = actions_of(env, steps, seed)
    copies = [array(x) for x in arrays(actions)]
    game = play(env, seed, actions, hook=Watch(forms, mode, found))
    if not equal(copies, [array(x) for x in arrays(actions)]):
        found.add("buffer", "step writes into the actions that it is given")
    ends = list(endings(game, mode))
    replays = Replays(env, mode, seed, actions, game, found)
    rules.mode_rules(game, mode, forms, found)
    rules.ending_rules(game, ends, replays.resets(), found)
    limit = time_limit(env) if limit is None else limit
    if limit:
        rules.limit_rules(game, mode, limit, found)
    if not ends:
        text = f"no episode ended within {steps:,} steps, so no autoreset was seen"
        found.notes.append(f"{text}; give more steps or a smaller time limit")
    if replays.same_seed():
        replays.other_seeds()
        replays.sharing()
        replays.ignored_actions()
        replays.partial_reset()
        if single is not None:
            lanes = _by_lane(env, actions)
            rules.reference_rule(game, single, seed, lanes, mode, found)
    return len(ends)


def _interface(env: VectorEnv[Any, Any, Any], found: Collector) -> AutoresetMode:
    """Attributes, spaces and their batching; the autoreset mode."""
    lanes = env.num_envs
    if not isinstance(lanes, int) or lanes < 1:
        found.add("interface", f"num_envs is {lanes!r}; expected an int of at least 1")
        raise StopError
    for name in ("observation_space", "action_space"):
        one, many = getattr(env, f"single_{name}"), getattr(env, name)
        if many != batch_space(one, lanes):
            text = f"{name} is not single_{name} batched {lanes} times"
            found.add("interface", text, f"it is {shown(many)}")
    mode = env.metadata.get("autoreset_mode")
    if isinstance(mode, AutoresetMode):
        return mode
    text = f"metadata['autoreset_mode'] is {mode!r}; expected an AutoresetMode"
    found.add("interface", f"{text}; taken as NEXT_STEP")
    return AutoresetMode.NEXT_STEP


def _by_lane(env: VectorEnv[Any, Any, Any], actions: Sequence[Any]) -> list[list[Any]]:
    """Actions as each lane sees them."""
    space = batch_space(env.single_action_space, env.num_envs)
    return [list(lane) for lane in zip(*(iterate(space, each) for each in actions), strict=True)]


def time_limit(env: VectorEnv[Any, Any, Any]) -> int | None:
    """The limit that an environment states, in steps; None where it states none."""
    inner = env.unwrapped
    own = getattr(inner, "max_episode_steps", None)
    if own is None and hasattr(inner, "get_attr"):
        own = getattr(inner.get_attr("spec")[0], "max_episode_steps", None)
    if own is None:
        own = getattr(getattr(inner.spec, "config", None), "max_episode_steps", None)
    return own if own is not None else getattr(inner.spec, "max_episode_steps", None)
