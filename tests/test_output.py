"""Folders whole or not at all, CSV, and values for JSON."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from rlgrad.errors import UsageError
from rlgrad.output import new_folder, write_folder
from rlgrad.plain_data import csv_text, plain

FILES = {"report.html": b"<p>", "plots/deep/a.png": b"\x89PNG"}


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_folder_is_written_with_its_folders(tmp_path):
    path = tmp_path / "new" / "report"
    write_folder(path, FILES)
    assert contents(path) == FILES
    assert [each.name for each in path.parent.iterdir()] == ["report"]


def test_a_name_that_is_taken_is_left_alone(tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "thesis.tex").write_text("years")
    (tmp_path / "report_1").write_text("a file")
    assert write_folder(tmp_path / "report", FILES) == tmp_path / "report_2"
    assert contents(tmp_path / "report_2") == FILES
    assert contents(tmp_path / "report") == {"thesis.tex": b"years"}
    assert (tmp_path / "report_1").read_text() == "a file"
    assert len(list(tmp_path.iterdir())) == 3


def test_below_a_file_there_is_no_folder(tmp_path):
    path = tmp_path / "report"
    path.write_text("mine")
    with pytest.raises(UsageError, match="cannot write"):
        write_folder(path / "inside", FILES)
    assert path.read_text() == "mine"
    assert [each.name for each in tmp_path.iterdir()] == ["report"]


def test_a_place_is_judged_before_the_work(tmp_path):
    assert new_folder(str(tmp_path / "a" / "b"), tmp_path) == tmp_path / "a" / "b"
    assert new_folder(None, tmp_path / "runs").parent == tmp_path / "runs"
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    for output, said in (
        (" ", "expected a folder"), (str(tmp_path), "exists"),
        (str(tmp_path / "file" / "report"), "nothing can be written to"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=said):
            new_folder(output, tmp_path)


@pytest.mark.parametrize("name", ["../a", "/a", "a/../b", "", "a//b", "./a", "a\\b", "a\0"])
def test_names_stay_inside(tmp_path, name):
    with pytest.raises(UsageError, match="no name of a file"):
        write_folder(tmp_path / "report", {"fine": b"", name: b""})
    assert not list(tmp_path.iterdir())


def test_what_fails_on_the_way_leaves_nothing(tmp_path):
    # A name longer than file systems take fails after the first file was written.
    with pytest.raises(UsageError, match=r"cannot write .*too long.* on a disk that has room"):
        write_folder(tmp_path / "report", {**FILES, "x" * 300: b""})
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_a_usage_error(tmp_path):
    # A limit on the size of files stands for the disk: writing fails half-way.
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from rlgrad.errors import UsageError; from rlgrad.output import write_folder\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: write_folder(Path(sys.argv[1]), {'a': b'x', 'b': b'x' * 5000})\n"
        "except UsageError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "report")]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert "cannot write" in done.stdout
    assert "File too large" in done.stdout
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------------------- CSV


def test_csv_reads_back():
    rows = [
        {"agent": 'a "b", c\nd', "iqm": 1 / 3, "steps": None},
        {"agent": "é", "extra": np.float64(0.1), "iqm": 1e-300, "steps": 20},
    ]
    text = csv_text(rows)
    assert text.splitlines(keepends=True)[0] == "agent,iqm,steps,extra\r\n"
    first, second = csv.DictReader(io.StringIO(text, newline=""))
    assert first == {"agent": 'a "b", c\nd', "iqm": repr(1 / 3), "steps": "", "extra": ""}
    assert second == {"agent": "é", "iqm": "1e-300", "steps": "20", "extra": "0.1"}


# -------------------------------------------------------------------------------------- JSON


class Pair(NamedTuple):
    value: float
    rest: tuple[int, ...]


@dataclass(frozen=True)
class Row:
    name: Path
    pair: Pair
    table: dict[int, np.ndarray]


def test_anything_nested_becomes_plain():
    row = Row(Path("a/b"), Pair(math.inf, (1, 2)), {3: np.array([[1.5, math.nan], [-math.inf, 2]])})
    found = plain({"row": row, "set": {4}, "flag": np.bool_(True), "int": np.int64(5)})
    expected = {
        "row": {
            "name": "a/b",
            "pair": {"value": None, "rest": [1, 2]},
            "table": {"3": [[1.5, None], [None, 2.0]]},
        },
        "set": [4],
        "flag": True,
        "int": 5,
    }
    assert json.loads(json.dumps(found, allow_nan=False)) == expected
    assert plain(torch.tensor([1.0, math.nan])) == [1.0, None]
    assert type(plain(np.float64(2.0))) is float
    with pytest.raises(TypeError, match="object is no data"):
        plain({"x": object()})
