"""What steps the environments of a run: the choice of ``--vec auto``, and what it may replace."""

from __future__ import annotations

from typing import Any

import gymnasium

from rlgrad.atari import is_atari
from rlgrad.card_files import EnvCard
from rlgrad.errors import UsageError
from rlgrad.make import is_simulated, make_lane
from rlgrad.masking import offers_masks
from rlgrad.vectorising import measure


def same_bits(card: EnvCard, vec: str) -> str:
    """Which engines give the bits that ``vec`` gives: simulator, gymnasium, envpool or ale.

    Args:
        card: of the environment.
        vec: of ``--vec``, or what it chose; empty: auto.
    """
    if is_simulated(card, vec or "auto"):
        return "simulator"
    if vec in ("", "auto") and is_atari(card.id):
        return "ale"
    return vec if vec in ("envpool", "ale") else "gymnasium"


def choose_vec(card: EnvCard, num_envs: int, max_episode_steps: int, vec: str) -> tuple[str, str]:
    """(engine of the environments, why) for ``--vec``: auto measures those with the same bits."""
    if is_simulated(card, vec):
        return "simulator", ""
    if vec != "auto":
        return vec, ""
    if is_atari(card.id):
        return "ale", ""
    return measure(make_lane(card, max_episode_steps), num_envs)


def choose_masks(
    card: EnvCard, env: gymnasium.Env[Any, Any], vec: str, wanted: str
) -> tuple[bool, str]:
    """(whether action masks are used, what to say of it) for ``--action-masks``.

    Args:
        card: of the environment.
        env: one of them, which is reset.
        vec: of ``--vec``.
        wanted: auto, on or off.

    Raises:
        UsageError: where they are asked for, and there are none.
    """
    if wanted == "off":
        return False, ""
    why = ""
    if is_simulated(card, vec):
        why = "its simulator gives no infos"
    elif not offers_masks(env):
        why = "it gives no info['action_mask'] with its first observation"
    elif vec == "envpool":
        why = "--vec envpool gives no infos"
    else:
        note = "what info['action_mask'] forbids is never done (--action-masks off ignores it)"
        return True, f"{card.id} masks actions: {note}"
    if wanted == "on":
        raise UsageError(f"--action-masks on, but {card.id} offers none: {why}; use auto or off")
    ignored = vec == "envpool" and "infos" in why and offers_masks(env)
    return False, f"{card.id}'s action masks are not used: {why}" if ignored else ""
