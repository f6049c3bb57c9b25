"""What the doctor says of this machine, and of ones that lack something."""

from __future__ import annotations

import json
import os
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from rlgrad.cli import main
from rlgrad.doctor import machine
from rlgrad.doctor.features import EXTRAS, imported

ROOT = Path(__file__).resolve().parent.parent


def told(capsys, *arguments: str, status: int = 0) -> dict:
    assert main(["doctor", "--json", *arguments]) == status
    return json.loads(capsys.readouterr().out)


def test_it_says_what_is_here(tmp_path, capsys):
    found = told(capsys, "--log-dir", str(tmp_path / "runs"))
    assert found["ok"]
    assert found["training"]["ok"]
    for package in ("torch", "gymnasium", "stable-baselines3", "tensorboard", "rlgrad"):
        assert found["versions"][package] == version(package)
    assert found["machine"]["devices"][0] == "cpu"
    assert found["machine"]["torch_threads"] >= 1
    assert {each["state"] for each in found["required"]} == {"ok"}
    assert found["log_dir"] == {"path": str(tmp_path / "runs"), "writable": True, "error": ""}
    assert not list(tmp_path.iterdir())  # looking leaves no trace


def test_every_extra_of_the_package_is_examined():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert set(project["optional-dependencies"]) - {"dev", "mutants"} == set(EXTRAS)


def test_a_missing_extra_is_named_with_its_command(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "moviepy", None)
    (watch,) = (each for each in told(capsys)["extras"] if each["name"] == "watch")
    assert (watch["state"], watch["detail"]) == ("missing", "moviepy")
    assert watch["install"] == "pip install 'rlgrad[watch]'"
    assert main(["doctor"]) == 0
    assert "moviepy: pip install 'rlgrad[watch]'" in capsys.readouterr().out


def test_a_broken_module_is_not_a_missing_one(tmp_path, monkeypatch):
    (tmp_path / "half_there.py").write_text("import nothing_of_that_name\n")
    (tmp_path / "raises.py").write_text("raise OSError('libfoo.so: cannot open')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert imported("nothing_of_that_name") == "missing"
    assert imported("half_there") == "half_there: No module named 'nothing_of_that_name'"
    assert imported("raises") == "raises: OSError: libfoo.so: cannot open"
    assert imported("json") == ""


@pytest.mark.parametrize("name", ["torch", "tensorboard"])
def test_without_what_is_vital_training_fails(name, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, name, None)
    found = told(capsys, status=1)
    assert not found["ok"]
    (row,) = (each for each in found["required"] if each["name"] == name)
    assert row["state"] == "missing"
    assert main(["doctor"]) == 1
    assert "training fails" in capsys.readouterr().out


def test_training_that_raises_is_told_in_a_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    found = machine.trained()
    assert not found["ok"]
    assert "safetensors.torch" in found["error"]
    assert "\n" not in found["error"]


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("in the way")
    found = told(capsys, "--log-dir", str(tmp_path / "file" / "runs"), status=1)
    assert not found["log_dir"]["writable"]
    assert found["log_dir"]["error"] == f"{tmp_path / 'file'} is no folder"
    if os.geteuid():  # root writes everywhere
        (tmp_path / "shut").mkdir(mode=0o500)
        assert machine.writable(str(tmp_path / "shut")).endswith("Permission denied")
