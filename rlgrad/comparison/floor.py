"""What random actions score: the zero of normalised scores, and the score of a seed that failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlgrad.actions import Actions
from rlgrad.comparison.records import Entry
from rlgrad.evaluation import evaluate
from rlgrad.make import make_one
from rlgrad.masking import offers_masks

EPISODES = 100


class Uniform:
    """Random actions, as a policy that can be evaluated.

    Args:
        sizes: categories of each of the D factors of an action.
        masked: whether only actions are taken that the environment allows.
    """

    def __init__(self, sizes: Sequence[int], masked: bool = False) -> None:
        self.shape, self.masked = (len(sizes), max(sizes)), masked
        exists = np.arange(max(sizes)) < np.array(sizes)[:, None]
        self.logits = np.where(exists, 0.0, -np.inf).astype(np.float32)

    def actor(self) -> Any:
        """Logits ``[1, n, D, A]`` of any observations ``[1, n, F]``, with masks behind them."""

        def act(x: Any) -> Any:
            logits = np.broadcast_to(self.logits, (*x.shape[:2], *self.shape)).copy()
            if self.masked:
                logits[x[..., -logits[0, 0].size :].reshape(logits.shape) == 0] = -np.inf
            return logits

        return act


def floors(entries: Sequence[Entry]) -> dict[str, float]:
    """Mean return of 100 episodes of random actions, by environment."""
    found: dict[str, float] = {}
    for entry in entries:
        if entry.env in found:
            continue
        card = entry.card
        kwargs = card["environment"]["kwargs"]
        limit = card.get("config", {}).get("max_episode_steps", 0)
        env = make_one(entry.env, kwargs, limit)
        masked = card.get("config", {}).get("action_masks") != "off" and offers_masks(env)
        policy = Uniform(Actions(env.action_space).sizes, masked)
        env.close()
        score = evaluate(policy, entry.env, 0, EPISODES, env_kwargs=kwargs, max_episode_steps=limit)
        assert score is not None
        found[entry.env] = score.sampled.mean
    return found
