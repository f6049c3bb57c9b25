"""What measuring leaves behind: a folder of report, pictures, numbers and TensorBoard events."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path

from rlgrad.lab.pages import csv_rows, page
from rlgrad.lab.rows import Measurements, Row
from rlgrad.log import EventFile
from rlgrad.naming import safe_name
from rlgrad.output import new_folder, write_folder
from rlgrad.plain_data import csv_text
from rlgrad.plots import png


def place(environment: str, output: str | None, log_dir: str) -> Path:
    """Where a report goes; refused before anything is measured where it cannot.

    Args:
        environment: Gymnasium id.
        output: a folder; None: below ``log_dir``, named by the time.
        log_dir: of all runs.

    Raises:
        UsageError: where there is something else already, or nothing can be written.
    """
    return new_folder(output, Path(log_dir) / "variance" / safe_name(environment))


def scalars(row: Row) -> dict[str, float]:
    """TensorBoard tags of an estimator."""
    name = row.label.replace(" ", "-")
    numbers = {
        "variance": row.variance.value, "ratio": row.ratio.value, "bias": row.bias_relative,
        "z": row.z, "snr": row.signal_to_noise, "cosine": row.cosine, "cost": row.cost,
        "microseconds": row.microseconds,
    }  # fmt: skip
    return {f"variance/{name}/{tag}": x for tag, x in numbers.items() if x is not None}


def split_scalars(table: Measurements) -> dict[str, float]:
    """TensorBoard tags of the variance's parts, as shares of it."""
    if table.split is None:
        return {}
    names = ("action", "trajectory", "state", "baseline")
    shares = {name: getattr(table.split, name).share.value for name in names}
    return {f"variance/split/{name}": x for name, x in shares.items() if math.isfinite(x)}


def _events(table: Measurements, pictures: dict[str, bytes]) -> dict[str, bytes]:
    """The event file, by the name that it got."""
    with tempfile.TemporaryDirectory() as folder:
        events = EventFile(Path(folder))
        for each in (*table.history, table):
            of_rows = {k: v for row in each.rows for k, v in scalars(row).items()}
            events.scalars(each.step, of_rows | split_scalars(each))
        about = ("environment", "agent", "signal", "critic", "objective", "seed", "states", "lanes")
        group = f"{table.environment} {table.checkpoint or 'initial parameters'}"
        events.hparams(group, {key: getattr(table, key) for key in about})
        for name, data in pictures.items():
            events.image(f"variance/{name}", data, table.step)
        events.close()
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def write(table: Measurements, path: Path) -> Path:
    """Write the folder whole or not at all.

    Returns:
        The folder; with a number behind its name where another report had it already.

    Raises:
        UsageError: where it cannot be written.
    """
    report = page(table)
    pictures = {name: png(figure) for name, figure in report.figures.items()}
    files = {
        "report.html": report.html().encode(),
        "variance.json": json.dumps(table.to_dict(), indent=1).encode(),
        "variance.csv": csv_text(csv_rows(table)).encode(),
        **{f"{name}.png": data for name, data in pictures.items()},
        **_events(table, pictures),
    }
    return write_folder(path, files)
