"""A stranger's file is refused in one line or read as data; writing stays in its folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import rlgrad
from rlgrad import card_files, checkpoints, reading, store
from rlgrad.comparison.gathering import from_paths
from rlgrad.errors import UsageError
from rlgrad.output import write_whole
from rlgrad.resuming import resume

torch.set_num_threads(1)
ROOT = Path(__file__).parent.parent
SMALL = {
    "num_envs": 2, "num_steps": 16, "hidden": (8,), "quiet": True, "eval_episodes": 2,
    "total_timesteps": 32, "max_episode_steps": 23,
}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    return rlgrad.train("CartPole-v1", "actor-critic", log_dir=str(tmp_path / "runs"), **SMALL)


def all_of(path):
    """All texts that a run left."""
    found = store.read_run(path)
    return found, found.metrics(), found.result()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1, 2]", r"it holds \[1, 2\]; expected a table"),
        ('{"a": NaN}', "NaN is no finite number"),
        ('{"a": -Infinity}', "-Infinity is no finite number"),
        ('{"a": 1e999}', "1e999 is no finite number"),
        ('{"a": 18446744073709551616}', "too large a number"),
        ('{"a": ' + "9" * 5000 + "}", "4300 digits"),
        ('{"a": ' * 100_000, "nested too deeply"),
        ('{"a": 1', "delimiter"),
    ],
)
def test_json_that_is_no_data(tmp_path, text, said):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=said):
        reading.read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a." * 33 + "a = 1", "has too many parts"),
        ("['a'." + '"b". ' * 33 + "a]", "has too many parts"),
        ("a = " + "[" * 70 + "]" * 70, "nested too deeply"),
        ("a = " + "[" * 100_000, "nested too deeply"),
        ("a = 9223372036854775808", "a number of 64 bits"),
        ("a = 1979-05-27", "it holds a date, 1979-05-27"),
        ("a = '" + "x" * (1 << 20) + "'", "expected at most 1,048,576"),
    ],
)
def test_toml_that_is_no_card(tmp_path, text, said):
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(ValueError, match=said):
        reading.read_toml(tmp_path / "a.toml")
    with pytest.raises(UsageError, match=said):
        card_files.read_agent(tmp_path / "a.toml")


def test_what_a_card_does_hold_is_read(tmp_path):
    text = 'a.b.c = [[1, -9223372036854775808], [0.5, inf]]\n[d."e.f"]\ng = "a.b.c.d" \n'
    (tmp_path / "a.toml").write_text(text)
    table = reading.read_toml(tmp_path / "a.toml")
    assert table["a"]["b"]["c"] == [[1, -(1 << 63)], [0.5, float("inf")]]
    assert table["d"]["e.f"]["g"] == "a.b.c.d"


def test_only_regular_files_are_read(tmp_path):
    """A pipe without a writer would hang."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    for name in ("pipe", "endless", "."):
        with pytest.raises((ValueError, OSError), match=r"no regular file|Is a directory"):
            reading.read_toml(tmp_path / name)
    with pytest.raises(UsageError, match="cannot be read as a checkpoint: it is no regular file"):
        checkpoints.read(tmp_path / "pipe")


def test_rows_are_read_up_to_a_length(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n{"a"')
    assert [row["a"] for row in reading.read_rows(path, 18)] == [1, 2]
    assert [row["a"] for row in reading.read_rows(path, 9)] == [1]
    for most in (None, 17, 20):
        with pytest.raises(ValueError, match=f"line {2 if most == 17 else 3}: it does not end"):
            list(reading.read_rows(path, most))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"a": 1, "b": [], "c": None, "more": 0}, ""),
        ({"a": 1.5, "b": [{"d": "x"}], "c": {"e": True}}, ""),
        ({"a": True, "b": [], "c": None}, "it.a is True; expected a number"),
        ({"a": 1, "b": {}, "c": None}, "it.b is {}; expected a list"),
        ({"a": 1, "b": [{"d": 1}], "c": None}, r"it.b\[0\].d is 1; expected a text"),
        ({"a": 1, "b": [], "c": {"e": 1}}, "it.c.e is 1; expected true or false"),
        ({"a": 1, "b": [], "c": 3}, "it.c is 3; expected a table or null"),
        ({"a": 1, "b": []}, "it has no 'c'"),
    ],
)
def test_forms(value, said):
    form = {"a": float, "b": [{"d": str}], "c": ({"e": bool}, None), "f?": int}
    if not said:
        return reading.conform(value, form)
    with pytest.raises(ValueError, match=said):
        reading.conform(value, form)
    return None


@pytest.mark.parametrize("name", ["metrics.jsonl", "lock", "card.toml", "checkpoints", "seed-0"])
@pytest.mark.parametrize("how", ["symbolic", "hard"])
def test_nothing_is_written_through_a_link(run, tmp_path, name, how):
    outside, path = tmp_path / "outside", run.path / name
    folder = name in ("checkpoints", "seed-0")
    if folder and how == "hard":
        pytest.skip("folders have no second names")
    if path.exists():
        path.rename(outside)
    else:
        outside.write_text("mine")
    path.symlink_to(outside) if how == "symbolic" else path.hardlink_to(outside)
    before = outside.stat().st_mtime_ns, outside.stat().st_size
    with pytest.raises(UsageError, match=f"{name} is a link, or no plain"):
        rlgrad.resume(run, 64)
    assert (outside.stat().st_mtime_ns, outside.stat().st_size) == before
    assert rlgrad.load(run).predict([0.0] * 4)[0] in (0, 1)  # reading goes on through it


def test_a_planted_half_file_leads_nowhere(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (tmp_path / f".run.json.{os.getpid()}").symlink_to(outside)
    write_whole(tmp_path / "run.json", b"{}")
    assert outside.read_text() == "mine"
    assert (tmp_path / "run.json").read_bytes() == b"{}"
    assert not (tmp_path / "run.json").is_symlink()


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("result.json", '"steps": 32', '"steps": "32"', "steps is '32'; expected a whole number"),
        ("result.json", '"seed": 0', '"seed": 5', "tells of seeds that the run has not"),
        ("metrics.jsonl", '"step": 32', '"step": 32.5', r"line 1\.step is 32\.5"),
        ("metrics.jsonl", "{", '{"rollout/ep_rew_mean": NaN, ', "line 1: NaN is no finite"),
        ("card.toml", 'id = "CartPole-v1"', "id = 3", "environment.id is 3; expected a text"),
        ("card.toml", "format = 1", "format = 2", "format 2; this rlgrad reads format 1: update"),
        ("card.toml", "seeds = [", "seeds = [-1,", "got seeds"),
        (
            "card.toml",
            "solved_at = 475.0",
            "solved_at = nan",
            "solved_at is nan; expected a finite",
        ),
    ],
)
def test_a_run_that_tells_nonsense_is_refused(run, name, old, new, said):
    path = run.path / name
    text = path.read_text()
    assert old in text, text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UsageError, match=said):
        all_of(run.path)


def test_a_newer_checkpoint_is_named_as_such(run):
    (path,) = run.checkpoints()
    data = path.read_bytes()
    assert b'"format":"1"' in data
    path.write_bytes(data.replace(b'"format":"1"', b'"format":"2"'))
    with pytest.raises(UsageError, match="format '2'; this rlgrad reads format 1: update rlgrad"):
        rlgrad.load(run)
    assert rlgrad.load(run, which="best").predict([0.0] * 4)[0] in (0, 1)


def test_numbers_that_are_none_leave_the_result_readable(run, tmp_path):
    tensors, counters = store.load_checkpoint(run.checkpoints()[0])
    path = tmp_path / "x.safetensors"
    checkpoints.write(path, tensors, {**counters, "mean": float("nan")})
    assert checkpoints.read(path)[1]["mean"] is None


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("iteration", 1 << 62, "its iteration is 4611686018427387904"),
        ("iteration", -1, "its iteration is -1"),
        ("episodes.count", (1 << 63) - 1, r"episodes\.count is out of range"),
    ],
)
def test_a_checkpoint_with_counts_that_no_run_reaches_is_refused(run, name, value, said):
    (path,) = run.checkpoints()
    tensors, counters = store.load_checkpoint(path)
    if name in tensors:
        tensors[name] = torch.full_like(tensors[name], value)
    else:
        counters[name] = value
    checkpoints.write(path, tensors, counters)
    with pytest.raises(UsageError, match=said):
        resume(run.path, 64, quiet=True)


def test_a_result_without_seeds_is_no_entry_of_a_comparison(run):
    path = run.path / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "seeds": []}))
    with pytest.raises(UsageError, match="no seeds"):
        from_paths([run.path])


def test_an_error_is_one_line_whatever_it_quotes():
    error = UsageError(f"no {'x' * 10_000}\nin /{'y' * 100}/{'z' * 100}" + " and" * 5000)
    assert str(error).startswith(f"no {'x' * 80}... in /{'y' * 100}/{'z' * 100} and")
    assert len(str(error)) < 4100
    assert "\n" not in str(error)


@pytest.mark.slow
def test_mutated_files_give_clean_errors():
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "fuzz.py", "--count", "200", "--seed", "1000"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert "0 faults" in done.stdout
    assert json.loads(done.stdout.splitlines()[-1].split()[0]) == 200
