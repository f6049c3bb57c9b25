"""What an estimate is taken of: a frozen learner, and rollouts of its signal's kind.

A rollout is what one lane hands to an update: one whole episode for return to go; else T =
``num_steps`` rows, which go on where the lane's last rollout ended, over the borders of episodes. A
lane's first rollout starts at an episode's start; later ones see what training sees later on.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

from rlgrad.config import Config
from rlgrad.errors import UsageError
from rlgrad.learner import Learner

LONGEST = 1024  # env steps over which starts are spread where no time limit says how far


def evenly(first: int, count: int = 1) -> tuple[float, ...]:
    """Shares of a lane's rollouts where ``count`` in a row are taken.

    Args:
        first: the number of the first of them is uniform over 0 ... ``first``.
        count: how many.
    """
    shares = [0.0] * (first + count)
    for start in range(first + 1):
        for number in range(start, start + count):
            shares[number] += 1 / (count * (first + 1))
    return tuple(shares)


@dataclasses.dataclass(frozen=True)
class Process:
    """A frozen learner and the rollouts that its lanes give."""

    learner: Learner
    """Of one seed; a copy, whose ``config`` says how actions are credited."""
    rows: int
    """T; of whole episodes, the most."""
    whole: bool
    """Whether a rollout is one whole episode."""
    shares: tuple[float, ...]
    """Chances that an estimate is of its lane's first, second, ... rollout."""


def frozen(
    learner: Learner,
    config: Config,
    limit: int | None,
    shares: Sequence[float] | None = None,
) -> Process:
    """The process of a learner; the learner itself is never touched.

    Args:
        learner: of one seed.
        config: whose signal, gamma, lambda, n and number of steps count.
        limit: env steps after which episodes are truncated; None: never.
        shares: chances that an estimate is of its lane's first, second, ... rollout; None: any
            that starts within the time limit (without one, 1,024 env steps), by even chances.
            Whole episodes are always first rollouts.

    Raises:
        ValueError: for a learner of several seeds, or shares that are no chances.
        UsageError: for a signal that needs a critic where the learner has none, or whole episodes
            where nothing limits them.
    """
    if learner.seeds != 1:
        raise ValueError(f"got a learner of {learner.seeds} seeds; expected one seed's")
    whole = config.signal == "return-to-go"
    if learner.critic is None and not whole:
        raise UsageError(
            f"signal {config.signal} needs a critic, and this agent has none; "
            "use one that was trained with it, or signal return-to-go"
        )
    if whole and limit is None:
        raise UsageError(
            "return to go needs whole episodes, and the environment has no time limit; "
            "give one with --max-episode-steps"
        )
    own = copy.deepcopy(learner).requires_grad_(False)
    own.config = config
    if whole:
        own.critic = None
    if whole and limit is not None:
        return Process(own, limit, True, (1.0,))
    T = config.num_steps
    if shares is None:
        shares = evenly(-(-min(limit or LONGEST, LONGEST) // T))
    if not shares or min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
        raise ValueError(f"got shares {list(shares)}; expected chances, which sum to 1")
    return Process(own, T, False, tuple(shares))
