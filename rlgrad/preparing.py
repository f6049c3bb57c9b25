"""What a training takes before it learns: its environments, their device, the rollout's length."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch
from gymnasium.spaces.utils import flatdim

from rlgrad.actions import Actions
from rlgrad.cards import Resolved
from rlgrad.choosing import choose_masks, choose_vec
from rlgrad.errors import UsageError
from rlgrad.images import image_of
from rlgrad.info_notes import Counted
from rlgrad.infos import parse_wanted
from rlgrad.lanes import Lanes
from rlgrad.make import is_simulated, make_one, make_training, time_limit
from rlgrad.options import Options
from rlgrad.preflight import Work, check_memory, choose_device, weights


class Ground(NamedTuple):
    """What a trainer stands on."""

    lanes: Lanes
    length: int
    """Steps of a rollout, T; of whole episodes the time limit."""
    device: torch.device
    where: str
    """The device, and why."""
    vec: str
    """What steps the environments."""
    masked: bool
    """Whether the environment's action masks are used."""
    overlaps: bool
    """Whether the policy chooses for half of the lanes while the others step."""
    notes: list[str]
    """Why, of the masks and of what steps, where there is something to say."""


def prepare(resolved: Resolved, seeds: Sequence[int], options: Options, each: int) -> Ground:
    """Make the environments of a training on the device that suits it; checks that all can work.

    Args:
        resolved: what is trained.
        seeds: S.
        options: how.
        each: lanes of a seed, of this process.

    Raises:
        UsageError: where something cannot work.
    """
    c, card = resolved.config, resolved.env
    whole = c.signal == "return-to-go"
    length, lanes = _length(resolved, whole), len(seeds) * each
    one = make_one(card.id, card.kwargs, c.max_episode_steps)
    outputs = Actions(one.action_space).outputs
    masked, why_masked = choose_masks(card, one, options.vec, c.action_masks)
    card = dataclasses.replace(card, masked=masked)
    image = image_of(one.observation_space, c.network)
    sizes = flatdim(one.observation_space) + masked * outputs, outputs
    check_memory(c, *sizes, lanes, length, image)
    one.close()
    simulated = is_simulated(card, options.vec)
    iterations = -(-c.total_timesteps // (c.num_envs * length))
    work = Work(iterations, length, lanes, weights(c, *sizes, image), simulated, whole)
    device, why = choose_device(options.device, work)
    vec, why_vec = choose_vec(card, lanes, c.max_episode_steps, options.vec)
    infos = Counted(tuple(parse_wanted(key).key for key in options.log_info), whole)
    made = Lanes(make_training(card, lanes, c.max_episode_steps, device, vec, infos), seeds)
    overlaps = device.type == "cuda" and made.chunked is not None and each > 1
    if infos.keys:
        made.check_infos(vec)
    notes = [note for note in (why_masked, why_vec) if note]
    return Ground(made, length, device, f"{device} ({why})", vec, masked, overlaps, notes)


def _length(resolved: Resolved, whole: bool) -> int:
    """Steps of a rollout, which for whole episodes is the environment's limit.

    Raises:
        UsageError: where there is none.
    """
    c, card = resolved.config, resolved.env
    limit = time_limit(card.id, c.max_episode_steps)
    if whole and limit is None:
        raise UsageError(
            f"{card.id} has no time limit, and {resolved.agent} learns from whole "
            "episodes; give one with --max-episode-steps"
        )
    return limit if whole and limit is not None else c.num_steps


def notes_of(resolved: Resolved, ground: Ground, unbiased: bool) -> list[str]:
    """What the user should hear about how flags are taken.

    Args:
        resolved: what is trained.
        ground: what it stands on.
        unbiased: whether its estimator is.
    """
    card, c, notes = resolved.env, resolved.config, list(ground.notes)
    if card.simulator and card.kwargs:
        notes.append(f"env-kwargs rule out {card.simulator}: training on Gymnasium's {card.id}")
    if not unbiased:
        notes.append(f"{c.estimator} is biased: its mean is not the policy gradient")
    if ground.overlaps:
        notes.append("the GPU chooses for half of the environments while the others step")
    if c.signal == "return-to-go":
        return [*notes, "-n is reached by whole episodes, so a seed ends a little later"]
    batch, total = c.num_envs * ground.length, c.total_timesteps
    rounded = -(-total // batch) * batch
    if rounded != total:
        notes.append(f"{total:,} env steps are rounded up to {rounded:,}, rollouts of {batch:,}")
    return notes
