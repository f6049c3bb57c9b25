"""A comparison as files: report, pictures, tables, and TensorBoard events."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rlgrad.comparison.judgement import Judgement
from rlgrad.comparison.records import Entry
from rlgrad.comparison.report import page
from rlgrad.comparison.summaries import Summary
from rlgrad.log import EventFile
from rlgrad.naming import safe_name
from rlgrad.output import new_folder, write_folder
from rlgrad.plain_data import csv_text
from rlgrad.plots import png
from rlgrad.stats import Interval

_CURVES = {
    "rollout/ep_rew_mean": "compare/ep_rew",
    "gradient/variance": "compare/gradient_variance",
}


def destination(targets: Sequence[str], output: str | None, log_dir: str) -> Path:
    """The folder of the report: a new one, in a place that can be written.

    Raises:
        UsageError: where ``output`` exists already, or nothing can be written there.
    """
    runs = any(Path(target).is_dir() for target in targets)
    name = "runs" if runs else "+".join(safe_name(target) for target in targets)
    return new_folder(output, Path(log_dir) / "compare" / safe_name(name))


def write(found: Judgement, folder: Path) -> Path:
    """Write everything into a new folder, whole or not at all.

    Returns:
        The folder; with a number behind its name where another comparison had it already.

    Raises:
        UsageError: where it cannot be written.
    """
    whole = page(found)
    pictures = {name: png(figure) for name, figure in whole.figures.items()}
    files = {
        "report.html": whole.html().encode(),
        "comparison.json": json.dumps(found.to_dict(), indent=1).encode(),
        "seeds.csv": csv_text(found.rows()).encode(),
        "agents.csv": csv_text(_flat_summaries(found)).encode(),
        **{f"{name}.png": data for name, data in pictures.items()},
        **_events(found, pictures, str(folder)),
    }
    return write_folder(folder, files)


def _flat_summaries(found: Judgement) -> list[dict[str, object]]:
    """Rows of ``agents.csv``: always the same columns, an interval's bounds in their own."""
    return [
        {
            "environment": s.env,
            "agent": s.agent,
            "peer": s.peer,
            "seeds": s.seeds,
            "failed": s.failed,
            **_bounds("return_iqm", s.iqm),
            **_bounds("return_median", s.median),
            **_bounds("return_mean", s.mean),
            **_bounds("return_argmax_iqm", s.argmax),
            "solved": s.solved,
            **_bounds("env_steps_to_solve", s.steps_to_solve),
            **_bounds("cpu_seconds_to_solve_together", s.seconds_together),
            "seeds_together": s.together,
            **_bounds("cpu_seconds_to_solve_alone", s.seconds_alone),
            "seeds_alone": s.alone,
            "cpu_seconds_of_training": s.cpu_seconds,
        }
        for s in found.summaries
    ]


def _bounds(name: str, interval: Interval | None) -> dict[str, float | None]:
    """Three columns; empty cells for what is not reached."""
    x = (None,) * 3 if interval is None else (y if math.isfinite(y) else None for y in interval)
    return dict(zip((name, f"{name}_low", f"{name}_high"), x, strict=True))


def _events(found: Judgement, pictures: dict[str, bytes], group: str) -> dict[str, bytes]:
    """TensorBoard: curves and final numbers of each agent, and the pictures."""
    with tempfile.TemporaryDirectory() as beside:
        root = Path(beside)
        events = EventFile(root)
        for name, data in pictures.items():
            events.image(f"compare/{name}", data)
        events.close()
        for entry, summary in zip(found.entries, found.summaries, strict=True):
            several = len(found.envs) > 1
            name = safe_name(entry.agent) + (f" {safe_name(entry.env)}" if several else "")
            events = EventFile(root / name)
            _agent_events(events, found, entry, summary)
            about = {"environment": entry.env, "agent": entry.agent, "seeds": summary.seeds}
            events.hparams(f"{group}/{name}", about)
            events.close()
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("events.*")}


def _agent_events(events: EventFile, found: Judgement, entry: Entry, summary: Summary) -> None:
    """Scalars of one agent: its curves with their bands, and what it came to at its last step."""
    for tag, shown in _CURVES.items():
        curve = found.curves(entry.env, tag).get(entry.agent)
        if curve is None:
            continue
        tags = (f"{shown}_iqm", f"{shown}_low", f"{shown}_high")
        for x, *bounds in zip(curve.x, curve.value, curve.low, curve.high, strict=True):
            events.scalars(round(x), dict(zip(tags, map(float, bounds), strict=True)))
    final = {
        "compare/return_iqm": summary.iqm.value,
        "compare/return_median": summary.median.value,
        "compare/return_mean": summary.mean.value,
        "compare/return_argmax_iqm": summary.argmax.value,
        "compare/solved_share": summary.solved / summary.seeds,
        "compare/env_steps_to_solve": (summary.steps_to_solve or (math.inf,))[0],
        "compare/cpu_seconds_to_solve_together": (summary.seconds_together or (math.inf,))[0],
        "compare/cpu_seconds_to_solve_alone": (summary.seconds_alone or (math.inf,))[0],
    }
    last = max(record.steps for record in entry.seeds)
    events.scalars(last, {tag: x for tag, x in final.items() if math.isfinite(x)})
