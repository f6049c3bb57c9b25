"""What random actions score: the zero of normalised scores, and the score of a seed that failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def random_score(
    env_id: str, kwargs: Mapping[str, Any], limit: int, action_masks: str = "auto"
) -> float:
    """Mean return of 100 episodes of random actions.

    Args:
        env_id: Gymnasium id.
        kwargs: for its constructor.
        limit: env steps after which an episode is truncated; 0: the environment's own.
        action_masks: "off": the environment's masks are ignored.
    """
    env = make_one(env_id, dict(kwargs), limit)
    masked = action_masks != "off" and offers_masks(env)
    policy = Uniform(Actions(env.action_space).sizes, masked)
    env.close()
    score = evaluate(policy, env_id, 0, EPISODES, env_kwargs=dict(kwargs), max_episode_steps=limit)
    assert score is not None
    return score.sampled.mean


def floors(entries: Sequence[Entry]) -> dict[str, float]:
    """What random actions score, by environment."""
    found: dict[str, float] = {}
    for entry in entries:
        if entry.env not in found:
            config = entry.card.get("config", {})
            found[entry.env] = random_score(
                entry.env,
                entry.card["environment"]["kwargs"],
                config.get("max_episode_steps", 0),
                config.get("action_masks", "auto"),
            )
    return found
