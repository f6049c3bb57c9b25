"""What steps the environments of a run: the choice of ``--vec auto``, and what it may replace."""

from __future__ import annotations

from rlgrad.atari import is_atari
from rlgrad.card_files import EnvCard
from rlgrad.make import is_simulated, make_lane
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
