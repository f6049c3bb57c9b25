"""How to train, apart from what is trained: the options of a run and its seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rlgrad.config import check
from rlgrad.errors import UsageError, shown
from rlgrad.infos import parse_wanted

MOST_SEEDS = 10_000
POINTS = 25
"""Logged points of a run by default: few enough for metrics to stay a small part of its cost."""


@dataclass(frozen=True)
class Options:
    """How to train; what is trained stands in the card."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where networks and simulators live; auto picks the faster one for the work and says so."""
    vec: Literal["auto", "sync", "async", "envpool", "ale"] = "auto"
    """What steps the environments: this process, worker processes, EnvPool or Atari's own class,
    whose episodes differ; auto: a simulator, Atari's class for Atari, else it measures sync and
    async, which give the same bits."""
    capture: Literal["auto", "on", "off"] = "auto"
    """Replay each iteration as one CUDA graph: auto does so on a GPU wherever it can, and says why
    where it cannot; on refuses then."""
    compile: bool = False
    """Also compile the simulator's step and the noise of a captured iteration: fewer operations
    for a start-up of a minute or so."""
    log_dir: str = "runs"
    """Runs are kept in LOG-DIR/<environment>/<agent>/<time>."""
    stop_when_solved: bool = False
    """Stop a seed once its last 100 training episodes reach the environment's solved-at score."""
    eval_freq: int = 0
    """Env steps per seed between evaluations; 0: at the end only."""
    eval_episodes: int = 100
    """Fresh episodes per evaluation, by sampling and as many by argmax."""
    save_freq: int = 0
    """Env steps per seed between checkpoints; 0: one every 30 seconds, and at the end."""
    keep_last: int = 0
    """Newest checkpoints that are kept; 0: three, or all where save-freq is given."""
    log_freq: int = 0
    """Env steps per seed between logged points; 0: a twenty-fifth of the run."""
    log_info: tuple[str, ...] = ()
    """Numbers of the environment's info to log as info/KEY: KEY or KEY:REDUCTION, of mean (over
    all steps since the last logged point), min, max and end (of each episode's last step)."""
    quiet: bool = False
    """Show no progress."""
    rank_timeout: int = 600
    """Seconds that the processes of a torchrun wait for the slowest of them."""

    def points(self, total: int) -> int:
        """Env steps between logged points of a run of so many."""
        return self.log_freq or max(1, total // POINTS)


def checked(values: Mapping[str, Any]) -> Options:
    """Options of the right type and range.

    Raises:
        UsageError: naming the option, what came and what was expected.
    """
    values = {**values, "log_dir": str(values.get("log_dir", Options.log_dir))}
    options = Options(**check(values, "arguments", Options))
    if not options.log_dir.strip():
        raise UsageError(f"arguments: log_dir = {options.log_dir!r}; expected a directory")
    for each in options.log_info:
        parse_wanted(each)
    return options


def parse_seeds(seeds: Any) -> list[int]:
    """Seeds from a count (10), a range ("0-9"), a list ("1,5,7-9") or a sequence of ints.

    Raises:
        UsageError: for anything else, repeated seeds, or none.
    """
    expected = 'a count ("10"), a range ("0-9") or a list ("1,5,7-9") of seeds from 0 to 2^63-1'
    try:
        if isinstance(seeds, str):
            found = _spelled(seeds)
        else:
            found = range(seeds) if isinstance(seeds, int) else [int(seed) for seed in seeds]
        count = len(found)
    except OverflowError:  # a range too long to be counted
        count = MOST_SEEDS + 1
    except (TypeError, ValueError):
        raise UsageError(f"got seeds {shown(seeds)}; expected {expected}") from None
    if count > MOST_SEEDS:
        raise UsageError(
            f"got seeds {shown(seeds)}; expected at most {MOST_SEEDS:,} in one process"
        )
    if not found or len(set(found)) < len(found) or min(found) < 0 or max(found) >= 1 << 63:
        raise UsageError(f"got seeds {shown(seeds)}; expected {expected}, each once")
    return list(found)


def _spelled(seeds: str) -> Sequence[int]:
    """Seeds from their spelling on the command line."""
    if "," not in seeds and "-" not in seeds.strip()[1:]:
        return range(int(seeds))
    found: list[int] = []
    for part in seeds.split(","):
        first, _, last = part.strip().rpartition("-")
        start, stop = int(first or last), int(last) + 1
        if stop - start > MOST_SEEDS:
            return range(start, stop)  # refused by its length, without making it
        found.extend(range(start, stop))
    return found
