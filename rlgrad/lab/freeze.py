"""A policy that stands still: a card's initial parameters, or a checkpoint of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from gymnasium.spaces import Space
from gymnasium.spaces.utils import flatdim, flatten_space

from rlgrad import card_files, cards, store
from rlgrad.actions import Actions
from rlgrad.card_files import EnvCard
from rlgrad.choosing import choose_masks
from rlgrad.config import ESTIMATOR_OPTIONS, FIELDS, Config, check
from rlgrad.critics import Critic
from rlgrad.errors import UsageError
from rlgrad.finding import import_module
from rlgrad.images import image_of
from rlgrad.learner import Learner
from rlgrad.loading import load_stored, require_modules
from rlgrad.make import make_one, time_limit
from rlgrad.preflight import observation_factors
from rlgrad.store import Run

CriticChoice = Literal["own", "fitted"]


@dataclass(frozen=True)
class Frozen:
    """A policy that stands still, and how its actions are credited."""

    learner: Learner
    """Of one seed. Its policy does not move any more; its critic may still be fitted."""
    env: EnvCard
    config: Config
    """The agent's own, with the signal that is measured."""
    agent: str
    seed: int
    fits_critic: bool
    """Whether the critic is to be fitted; else it is as it was in training."""
    step: int = 0
    """Env steps of training behind the policy."""
    checkpoint: Path | None = None
    """None: initial parameters."""

    @property
    def whole(self) -> bool:
        """Whether an estimate is of a whole episode."""
        return self.config.signal == "return-to-go"

    @property
    def length(self) -> int:
        """T, the most env steps of one estimate."""
        if not self.whole:
            return self.config.num_steps
        limit = time_limit(self.env.id, self.config.max_episode_steps)
        if limit is None:
            raise UsageError(
                f"{self.env.id} has no time limit, and return-to-go needs whole episodes; "
                "measure with --signal gae"
            )
        return limit

    @property
    def critic(self) -> str:
        """Which critic credits the actions."""
        return "none" if self.whole else "fitted" if self.fits_critic else "own"


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Modules made inside get their initial parameters from the seed; no global state changes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def chosen_signal(signal: str | None) -> dict[str, Any]:
    """The override of a card by ``--signal``."""
    return check({} if signal is None else {"signal": signal}, "arguments")


def _plain(config: Config) -> Config:
    """The same agent with the estimator that needs nothing: the lab builds its own."""
    unset: dict[str, Any] = {name: FIELDS[name].default for name in ESTIMATOR_OPTIONS}
    return dataclasses.replace(config, estimator="reinforce", action_critic=False, **unset)


def _refuse_images(env_id: str, space: Space[Any], config: Config) -> None:
    """The lab gives estimators the observations themselves, as perceptrons see them."""
    if image_of(space, config.network) is not None:
        raise UsageError(
            f"{env_id} shows images, and variance is measured for perceptrons only: take an "
            "environment of numbers, or an agent that was trained with --network mlp"
        )


def fresh(
    env_id: str,
    agent: str | None = None,
    *,
    seed: int = 0,
    signal: str | None = None,
    critic: CriticChoice | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    env_modules: Sequence[str] = (),
) -> tuple[Frozen, tuple[str, ...]]:
    """(initial parameters of an agent card, notes for the user).

    Args:
        env_id: Gymnasium id.
        agent: card; None: actor-critic.
        seed: of the parameters.
        signal: instead of the card's.
        critic: "fitted" or None; there is none of its own yet.
        env_kwargs: for the environment's constructor.
        env_modules: to import first.
    """
    if critic == "own":
        raise UsageError("--critic own, but a fresh policy has no critic yet; leave it out")
    for module in env_modules:
        import_module(module)
    flags = chosen_signal(signal)
    resolved = cards.resolve(env_id, agent, None, flags, env_kwargs, env_modules)
    config = resolved.config
    one = make_one(env_id, resolved.env.kwargs, config.max_episode_steps)
    masked, why = choose_masks(resolved.env, one, "auto", config.action_masks)
    space, actions = flatten_space(one.observation_space), Actions(one.action_space)
    one.close()
    scale = observation_factors(space, config)
    _refuse_images(env_id, one.observation_space, config)
    learner = Learner(_plain(config), flatdim(space), actions.sizes, [seed], scale, masked=masked)
    card = dataclasses.replace(resolved.env, masked=masked)
    notes = (*resolved.notes, why) if why else resolved.notes
    return Frozen(learner, card, config, resolved.agent, seed, True), notes


def stored(
    run: Run,
    checkpoint: Path | None = None,
    *,
    seed: int | None = None,
    signal: str | None = None,
    critic: CriticChoice | None = None,
    env_modules: Sequence[str] = (),
) -> Frozen:
    """A checkpoint of a run.

    Args:
        run: as read back.
        checkpoint: file; None: the newest.
        seed: one of the run's; None: its first.
        signal: instead of the run's.
        critic: "own": as it was in training, the default where there is one; "fitted": fitted on.
        env_modules: to import first.

    Raises:
        UsageError: where the checkpoint is missing, damaged or of another shape.
    """
    for module in env_modules:
        import_module(module)
    require_modules(run, env_modules)
    if run.peer is not None:
        raise UsageError(
            f"{run.path} is of the peer {run.agent}, and peers have no learner of rlgrad; measure "
            "a run of one of rlgrad's agents (rlgrad list agents)"
        )
    config = dataclasses.replace(run.config, **chosen_signal(signal))
    learner, seed, step, path = load_stored(run, seed, checkpoint)
    assert isinstance(learner, Learner)
    one = make_one(run.env_id, run.env_kwargs, config.max_episode_steps)
    _refuse_images(run.env_id, one.observation_space, config)
    one.close()
    has_critic = learner.critic is not None
    if critic == "own" and not has_critic:
        raise UsageError(f"--critic own, but {run.path} has no critic; leave it out")
    if config.signal == "return-to-go":
        learner.critic = None
    elif not has_critic:
        with seeded(seed):
            learner.critic = Critic(learner.features, config, 1)
    learner.config = config
    learner.action_critic = None  # the lab fits its own, the same for all estimators
    env = dataclasses.replace(
        card_files.env_card(run.env_id), kwargs=run.env_kwargs, masked=run.masked
    )
    fits = critic == "fitted" or not has_critic
    return Frozen(learner, env, config, run.agent, seed, fits, step, path)


def run_of(checkpoint: Path) -> Run:
    """The run that a checkpoint file lies in.

    Raises:
        UsageError: where it lies in none.
    """
    if not checkpoint.is_file():
        raise UsageError(f"{checkpoint}: no such checkpoint file")
    folder = checkpoint.resolve().parent.parent
    if not (folder / "card.toml").is_file():
        raise UsageError(
            f"{checkpoint} lies in no run; expected RUN/checkpoints/step-….safetensors, "
            "beside which RUN/card.toml says what it is of"
        )
    return store.read_run(folder)


def every(run: Run, step: int) -> list[Path]:
    """Every ``step``-th checkpoint of a run, counted back from its newest.

    Raises:
        UsageError: where there is only one.
    """
    files = run.checkpoints()
    if len(files) < 2:
        count = "one checkpoint" if files else "no checkpoint yet"
        raise UsageError(
            f"{run.path} has {count}; to measure along training, train with --save-freq"
        )
    return files[::-1][::step][::-1]
