"""From a run directory to a policy: one seed of a checkpoint, rebuilt as the run's card says."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gymnasium.spaces.utils import flatdim, flatten_space
from torch import Tensor

from rlgrad.actions import Actions
from rlgrad.agent import Agent, Policy
from rlgrad.checkpoints import DamagedError
from rlgrad.config import own_module
from rlgrad.errors import UsageError, shown
from rlgrad.finding import import_module
from rlgrad.images import image_of
from rlgrad.learner import Learner
from rlgrad.make import make_one
from rlgrad.peer_cards import Peer, is_trusted
from rlgrad.preflight import check_memory, fitting, observation_factors
from rlgrad.store import Run, load_checkpoint, named_run


class Stored(NamedTuple):
    """A policy as a checkpoint holds it."""

    policy: Policy
    seed: int
    steps: int
    """Env steps of training behind it."""
    path: Path
    """Of the checkpoint: where none was named, the newest that is whole."""


def _chosen(
    run: Run, seed: int | None, checkpoint: Path | None
) -> tuple[int, Path, dict[str, Tensor], dict[str, Any]]:
    """(the seed, or the run's first; the checkpoint, or the run's newest that is whole)."""
    files = run.checkpoints() if checkpoint is None else [checkpoint]
    if not files:
        raise UsageError(f"{run.path} has no checkpoint yet; let it train on")
    seed = run.seeds[0] if seed is None else seed
    if seed not in run.seeds:
        names = ", ".join(map(str, run.seeds))
        raise UsageError(f"{run.path} has no seed {seed}; it has {names}")
    while True:
        path = files.pop()
        try:
            return seed, path, *load_checkpoint(path)
        except DamagedError as error:
            if not files:
                raise
            warnings.warn(f"left out {path.name}: {error}", stacklevel=2)


def load_policy(run: Run, seed: int | None = None, checkpoint: Path | None = None) -> Policy:
    """The policy of one seed, from a run's newest checkpoint or a given one.

    Args:
        run: of one of rlgrad's agents or of a peer.
        seed: which of its seeds; None: its first.
        checkpoint: file, see ``find_checkpoint``; None: the newest that is whole.

    Raises:
        UsageError: where the checkpoint or the seed is missing or damaged.
    """
    return load_stored(run, seed, checkpoint).policy


def load_stored(run: Run, seed: int | None = None, checkpoint: Path | None = None) -> Stored:
    """The same, with what it is of."""
    seed, path, tensors, counters = _chosen(run, seed, checkpoint)
    seeds = counters.get("seeds")
    if seeds not in (list(run.seeds), [seed]):  # of all, or the best of one
        raise UsageError(f"{path}: its seeds are {shown(seeds)}, and seed {seed} is asked for")
    steps = counters["steps"][seeds.index(seed)]
    return Stored(_policy(run, seed, path, tensors, counters), seed, steps, path)


def _policy(
    run: Run, seed: int, path: Path, tensors: dict[str, Tensor], counters: dict[str, Any]
) -> Policy:
    """Of one seed, from what a checkpoint holds; the path is for messages."""
    if run.peer is None:
        return _learner(run, seed, path, tensors, counters)
    from rlgrad.peers.policy import load_peer

    return load_peer(run, seed, path, tensors, counters)


def acting(run: Run, seed: int, policy: Policy) -> Agent:
    """A seed's policy with the spaces of its environment."""
    env = make_one(run.env_id, run.env_kwargs, run.config.max_episode_steps)
    try:
        return Agent(policy, env.observation_space, env.action_space, seed)
    finally:
        env.close()


def agent_of(
    run: Run, seed: int, tensors: Mapping[str, Tensor], counters: Mapping[str, Any]
) -> Agent:
    """A seed of a training in progress, a copy of what an engine's ``state`` gives."""
    held = {name: x.detach().cpu().clone() for name, x in tensors.items()}
    return acting(run, seed, _policy(run, seed, run.path, held, dict(counters)))


def load_learner(
    run: Run, seed: int | None = None, checkpoint: Path | None = None
) -> tuple[Learner, int]:
    """(learner of one seed, that seed) from a run's newest checkpoint or a given one."""
    if run.peer is not None:
        raise UsageError(f"{run.path} is of the peer {run.agent}, which has no learner of rlgrad")
    stored = load_stored(run, seed, checkpoint)
    assert isinstance(stored.policy, Learner)
    return stored.policy, stored.seed


def _learner(
    run: Run, seed: int, path: Path, tensors: dict[str, Tensor], counters: dict[str, Any]
) -> Learner:
    """One seed's rows of a checkpoint, as a learner."""
    learner, seeds = _empty_learner(run, seed, path, counters), counters["seeds"]
    expected, row = learner.state_dict(), seeds.index(seed)
    for name, like in expected.items():
        fitting(path, name, tensors.get(name), like.dtype, [len(seeds), *like.shape[1:]], row)
    learner.load_state_dict({name: tensors[name][row : row + 1] for name in expected})
    return learner


def _empty_learner(run: Run, seed: int, path: Path, counters: dict[str, Any]) -> Learner:
    """A learner as card and environment say; the checkpoint's own numbers must agree."""
    env = make_one(run.env_id, run.env_kwargs, run.config.max_episode_steps)
    observed, actions = env.observation_space, Actions(env.action_space)
    space = flatten_space(observed)
    features = flatdim(space)
    env.close()
    try:
        image = image_of(observed, run.config.network)
        scale = observation_factors(space, run.config, image is not None)
        check_memory(run.config, features, actions.outputs, run.config.num_envs, 1, image)
    except UsageError as error:
        raise UsageError(f"{run.path}: {error}") from None
    says = {
        "features": features,
        "actions": list(actions.sizes),
        "observation_scale": scale,
        "image": None if image is None else list(image),
    }
    for key, value in says.items():
        if counters.get(key) != value:
            raise UsageError(
                f"{path}: {key} = {shown(counters.get(key))}; {run.env_id} with the run's card "
                f"has {shown(value)}"
            )
    return Learner(
        run.config, features, actions.sizes, [seed], scale, masked=run.masked, image=image
    )


def import_allowed(run: Run, allowed: Sequence[str]) -> None:
    """Import modules that were named, and refuse where the run needs others.

    Args:
        run: whose environment or algorithm may need them.
        allowed: names of modules.

    Raises:
        UsageError: where one cannot be imported, or the run needs one more.
    """
    for module in allowed:
        import_module(module)
    require_modules(run, allowed)


def open_run(
    name: str | Path | Run, env_modules: Sequence[str] = (), log_dir: str | Path = "runs"
) -> Run:
    """A run that can be rebuilt: found, read, and the modules imported that it needs.

    Args:
        name: path of the run, "latest", or a ``Run``.
        env_modules: to import first, where the environment is not Gymnasium's.
        log_dir: where "latest" looks.

    Raises:
        UsageError: where there is no run, or it needs a module that was not named.
    """
    run = named_run(name, log_dir)
    import_allowed(run, env_modules)
    return run


def require_modules(run: Run, given: Sequence[str]) -> None:
    """Refuse to import what a run's card names: a file from elsewhere must not choose code to run.

    Raises:
        UsageError: with the flag that gives the consent.
    """
    needed = needed_modules(run.env_id, run.env_modules, run.config.estimator, run.peer)
    for module, what in needed.items():
        if module not in given and module not in sys.modules:
            raise UsageError(
                f"{run.path} needs the module {module!r} imported for its {what}; "
                f"if you trust it, pass --env-module {module}"
            )


def needed_modules(
    env_id: str, env_modules: Sequence[str], estimator: str, peer: Peer | None
) -> dict[str, str]:
    """What must be imported to train so, by name, and for what: environment, estimator, algorithm.

    Args:
        env_id: Gymnasium id, with or without ``module:``.
        env_modules: that the user named.
        estimator: a name, or ``module:Class``.
        peer: what trains in the place of rlgrad.
    """
    own = env_id.rpartition(":")[0]
    needed = dict.fromkeys([*env_modules, *([own] if own else [])], "environment")
    needed |= dict.fromkeys(own_module(estimator), "estimator")
    if peer is not None and not is_trusted(peer.algorithm):
        needed[peer.algorithm.rpartition(".")[0]] = "algorithm"
    return needed
