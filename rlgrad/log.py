"""The record of a run: ``metrics.jsonl``, and TensorBoard events as a view of it."""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.hparams import plugin_data_pb2

from rlgrad.framing import Frames
from rlgrad.reading import read_rows

_HPARAMS = "_hparams_/session_start_info"
_PNG = b"\x89PNG\r\n\x1a\n"


class EventFile:
    """A TensorBoard event file; one event holds all scalars of a step, which is much cheaper.

    Args:
        folder: of the file; made if missing.
        since: step from which on it stands for all earlier files of the folder; None: they stay.
    """

    def __init__(self, folder: Path, since: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads a folder's files in the order of their names.
        stamps = (each.name.split(".")[3] for each in folder.glob("events.out.tfevents.*"))
        stamp = max(int(time.time()), *(int(each) + 1 for each in stamps if each.isdecimal()), 0)
        name = f"events.out.tfevents.{stamp}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("xb")
        self._records = Frames(self._file)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if since is not None:
            start = SessionLog(status=SessionLog.START)
            self._write(Event(wall_time=time.time(), step=since, session_log=start))

    def _write(self, event: Event) -> None:
        self._records.write(event.SerializeToString())

    def scalars(
        self, step: int, numbers: Mapping[str, float], wall_time: float | None = None
    ) -> None:
        """Numbers by tag at a step (env steps).

        Args:
            step: env steps.
            numbers: by tag.
            wall_time: seconds since 1970, for a record of what was measured earlier; now.
        """
        values = [Summary.Value(tag=tag, simple_value=x) for tag, x in numbers.items()]
        at = time.time() if wall_time is None else wall_time
        self._write(Event(wall_time=at, step=step, summary=Summary(value=values)))

    def image(self, tag: str, png: bytes, step: int = 0) -> None:
        """A picture in the images tab.

        Args:
            tag: its name.
            png: the file's bytes.
            step: env steps.
        """
        if png[:8] != _PNG:
            raise ValueError(f"{tag}: the bytes are no PNG")
        width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
        image = Summary.Image(encoded_image_string=png, width=width, height=height)
        summary = Summary(value=[Summary.Value(tag=tag, image=image)])
        self._write(Event(wall_time=time.time(), step=step, summary=summary))

    def text(self, tag: str, text: str) -> None:
        """Markdown in the text tab."""
        plugin = SummaryMetadata.PluginData(plugin_name="text")
        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
        tensor = TensorProto(dtype=DT_STRING, tensor_shape=shape, string_val=[text.encode()])
        metadata = SummaryMetadata(plugin_data=plugin)
        value = Summary.Value(tag=tag, metadata=metadata, tensor=tensor)
        self._write(Event(wall_time=time.time(), summary=Summary(value=[value])))

    def hparams(
        self, group: str, values: Mapping[str, Any], metrics: Mapping[str, float] | None = None
    ) -> None:
        """Hyperparameters for the hparams tab, with the metrics it shows beside them.

        The tab takes every scalar of the same folder as a metric, by its latest value. A
        summary of the experiment could name them instead, but that of one folder would stand for
        all folders below ``--logdir``, and hide the others' hyperparameters.

        Args:
            group: of sessions that are shown as one row.
            values: by name.
            metrics: by tag; written as scalars at step 0.
        """
        start = plugin_data_pb2.SessionStartInfo(group_name=group, start_time_secs=time.time())
        for key, value in values.items():
            if isinstance(value, bool):
                start.hparams[key].bool_value = value
            elif isinstance(value, (int, float)):
                start.hparams[key].number_value = value
            else:
                start.hparams[key].string_value = str(value)
        content = plugin_data_pb2.HParamsPluginData(version=0, session_start_info=start)
        plugin = SummaryMetadata.PluginData(
            plugin_name="hparams", content=content.SerializeToString()
        )
        metadata = SummaryMetadata(plugin_data=plugin)
        empty = TensorProto(dtype=DT_STRING, tensor_shape=TensorShapeProto())
        value = Summary.Value(tag=_HPARAMS, metadata=metadata, tensor=empty)
        self._write(Event(wall_time=time.time(), summary=Summary(value=[value])))
        if metrics:
            self.scalars(0, metrics)

    def flush(self) -> None:
        """Hand what was written to the operating system."""
        self._records.flush()

    def close(self) -> None:
        """Flush and close."""
        self._records.close()


class Log:
    """Metrics of all seeds of a run.

    Args:
        folder: the run directory.
        seeds: names of the seeds.
        card: text of the resolved card, shown in TensorBoard.
        hyperparameters: for TensorBoard's hparams tab.
        since: to go on from another process, the bytes of the record that stand, and each seed's
            env steps; what came after is dropped; None: a new run.
    """

    def __init__(
        self,
        folder: Path,
        seeds: Sequence[int],
        card: str,
        hyperparameters: Mapping[str, Any],
        since: tuple[int, Mapping[int, int]] | None = None,
    ) -> None:
        path, (length, steps) = folder / "metrics.jsonl", since or (0, {})
        if since is not None:
            path.touch()
            os.truncate(path, length)
        self._record: IO[str] = path.open("a", encoding="utf-8")
        self._events = {seed: EventFile(folder / f"seed-{seed}", steps.get(seed)) for seed in seeds}
        for seed, events in self._events.items():
            events.text("card", f"```toml\n{card}\n```")
            events.hparams(f"{folder}/seed-{seed}", {**hyperparameters, "seed": seed})
        for row in read_rows(path) if steps else ():
            # An event file drops the step that it begins with, too.
            if row["step"] == steps[row["seed"]]:
                numbers = {tag: x for tag, x in row.items() if tag not in ("seed", "step")}
                self._events[row["seed"]].scalars(row["step"], numbers)

    def write(self, seed: int, step: int, numbers: Mapping[str, float]) -> None:
        """One line of the record and one event; numbers that are not finite are left out."""
        finite = {tag: x for tag, x in numbers.items() if math.isfinite(x)}
        self._record.write(json.dumps({"seed": seed, "step": step, **finite}) + "\n")
        self._events[seed].scalars(step, finite)

    def flush(self) -> None:
        """Hand what was written to the operating system."""
        self._record.flush()
        for events in self._events.values():
            events.flush()

    def sync(self) -> int:
        """Write all of the record to the disk; returns its length in bytes."""
        self.flush()
        os.fsync(self._record.fileno())
        return os.fstat(self._record.fileno()).st_size

    def close(self) -> None:
        """Close all files; what a full disk does not take any more has been said before."""
        for close in (self._record.close, *(each.close for each in self._events.values())):
            with suppress(OSError):
                close()
