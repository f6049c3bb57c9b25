"""The forms of what a run leaves as JSON; see ``reading.conform``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rlgrad.reading import conform, read_rows

_SCORE = {
    **dict.fromkeys(("mean", "deviation", "least", "most", "mean_length"), (float, None)),
    "episodes": int,
    "unfinished": int,
}
OUTCOME = {
    "seed": int,
    "status": str,
    "steps": int,
    "episodes": int,
    "mean_return": (float, None),
    "mean_length": (float, None),
    "solved_at_step": (int, None),
    "solved_at_seconds": ({"cpu": float, "wall": float}, None),
    "reason": str,
    "evaluation": ({"sampled": _SCORE, "argmax": _SCORE}, None),
}
"""Form of what ``Outcome.plain`` gives."""
RESULT = {
    "seeds": [OUTCOME],
    "cpu_seconds": float,
    "wall_seconds": float,
    "together?": int,
    "solved_at?": (float, None),
}
"""Form of result.json."""
ABOUT: dict[str, Any] = {
    "versions": {},
    "options": {},
    "resumed?": [{}],
    "callbacks?": [str],
}
"""Form of run.json, as far as going on needs it."""
COUNTERS = {"steps": [int], "seeds": [int]}
"""Form of what every checkpoint tells."""
STANDING = {"outcomes": [OUTCOME], "seconds": [float], "iteration": int, "device": str}
"""Form of what a checkpoint tells beside that, if a run can go on from it."""
SESSION = {
    "record": int,
    "pending": [int],
    "evaluated": [int],
    "exact": bool,
    "infos?": [{}],
    "callbacks?": [{"name": str, "state": {}}],
}
"""Form of ``Standing`` in a checkpoint."""
RUN = {
    "agent": str,
    "environment": {
        "id": str,
        "simulator": str,
        "vec?": str,
        "action_masks?": bool,
        "kwargs": {},
        "modules": [str],
        "solved_at?": float,
    },
    "config": {},
    "peer?": {"algorithm": str, "arguments": {}, "policy?": str, "normalize?": {}},
}
"""Form of a run's card."""


def record(path: Path, seeds: Sequence[int], most: int | None = None) -> Iterator[dict[str, Any]]:
    """Rows of metrics.jsonl.

    Args:
        path: of the file.
        seeds: of the run.
        most: bytes from its beginning that are read; None: all.

    Raises:
        OSError: where it cannot be read.
        ValueError: naming the line that is no row of these seeds.
    """
    for number, row in enumerate(read_rows(path, most), 1):
        conform(row, dict.fromkeys(row, float) | {"seed": int, "step": int}, f"line {number}")
        if row["seed"] not in seeds:
            raise ValueError(f"line {number} is of seed {row['seed']}, which the run has not")
        yield row
