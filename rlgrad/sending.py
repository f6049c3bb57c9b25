"""A resolved card on its way to another process, which may not see the files that it came from."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any

from rlgrad.card_files import EnvCard
from rlgrad.cards import Resolved
from rlgrad.creating import card_text
from rlgrad.peer_cards import read_tables


def packed(resolved: Resolved) -> dict[str, Any]:
    """What is trained, as data for JSON."""
    return {
        "card": card_text(resolved, [0]),
        "notes": list(resolved.notes),
        "tuning": resolved.tuning,
    }


def unpacked(data: Mapping[str, Any]) -> Resolved:
    """What ``packed`` packed.

    Raises:
        UsageError, KeyError, TypeError, ValueError: for anything else.
    """
    card = tomllib.loads(data["card"])
    config, peer = read_tables(card, "the card of a task")
    table = card["environment"]
    env = EnvCard(
        table["id"],
        simulator=table["simulator"],
        solved_at=table.get("solved_at"),
        kwargs=table["kwargs"],
        modules=tuple(table["modules"]),
    )
    return Resolved(env, card["agent"], config, tuple(data["notes"]), peer, dict(data["tuning"]))
