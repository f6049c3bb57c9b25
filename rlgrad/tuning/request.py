"""What ``rlgrad tune`` is asked for, checked before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlgrad import cards
from rlgrad.cards import Resolved
from rlgrad.errors import UsageError
from rlgrad.finding import import_module
from rlgrad.options import parse_seeds
from rlgrad.training import engine
from rlgrad.tuning.trial import options_of

REPORTED = (range(20), range(100, 200))
"""Seeds that results are reported on: nothing may be chosen by them."""
MOST_TRIALS = 1_000


@dataclass(frozen=True)
class Request:
    """What is asked for, checked."""

    env: str
    agents: tuple[str, ...]
    seeds: tuple[int, ...]
    trials: int
    budget: float | None
    jobs: int
    """Agents at a time; 0: one per core."""
    modules: tuple[str, ...]
    root: Path
    """Folder of the studies."""


def need_optuna() -> None:
    """Refuse to begin without it, and say how to install it."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"tuning needs {error.name}, which is not installed: pip install 'rlgrad[tune]'"
        ) from None


def asked(
    env: str,
    agents: str | Sequence[str],
    trials: int,
    budget: float | None,
    seeds: Any,
    jobs: int,
    modules: tuple[str, ...],
    root: Path,
) -> Request:
    """What is asked for, as far as it can be checked without making anything.

    Raises:
        UsageError: naming what came and what was expected; for seeds that results are reported on.
    """
    names = agents.split(",") if isinstance(agents, str) else list(agents)
    names = list(dict.fromkeys(name.strip() for name in names if name.strip()))
    if not names:
        raise UsageError("got no agents; expected names such as actor-critic,relax")
    if not 1 <= trials <= MOST_TRIALS:
        raise UsageError(f"got --trials {trials}; expected 1 to {MOST_TRIALS:,}")
    if budget is not None and not 0 < budget < 1e6:
        raise UsageError(f"got --budget {budget:g}; expected CPU-hours above 0")
    if jobs < 0:
        raise UsageError(f"got --jobs {jobs}; expected 0 (one per core) or more")
    found = tuple(parse_seeds(seeds))
    shared = [seed for seed in found if any(seed in span for span in REPORTED)]
    if shared:
        spans = " and ".join(f"{span[0]}-{span[-1]}" for span in REPORTED)
        raise UsageError(
            f"got seed {shared[0]} to tune on, and results are reported on {spans}; a setting that "
            "is chosen on them flatters itself: take others, such as --seeds 1000-1009"
        )
    return Request(env, tuple(names), found, trials, budget, jobs, modules, root)


def made_ready(
    request: Request, flags: Mapping[str, Any], kwargs: Mapping[str, Any]
) -> list[Resolved]:
    """The cards; each is made ready once, so that what cannot be trained is found before.

    Args:
        request: what is asked for.
        flags: fields of ``Config`` that override all cards.
        kwargs: for the environment's constructor.

    Raises:
        UsageError: for what cannot be trained, and for peers.
    """
    for module in request.modules:
        import_module(module)
    found = []
    for agent in request.agents:
        each = cards.resolve(request.env, agent, None, flags, kwargs, request.modules)
        if each.peer is not None:
            raise UsageError(
                f"{agent} is a peer, compared with the settings that its makers tuned; rlgrad tune "
                "is for rlgrad's own agents"
            )
        engine(each, request.seeds[:1], options_of(each)).close()
        found.append(each)
    return found
