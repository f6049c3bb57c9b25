"""``rlgrad variance ENV`` as a user meets it: tables, reports, runs, and what is refused."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import shutil
import warnings

import pytest
import torch
from kept_runs import strict
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

import rlgrad
from rlgrad.bootstrap import Interval
from rlgrad.cli import main
from rlgrad.lab import printing, sampling

QUICK = (
    "--states", "1100", "--fit-states", "1100", "--train-steps", "3", "--split-states", "2",
)  # fmt: skip
FILES = {"report.html", "variance.json", "variance.csv", "variance.png", "split.png"}


@pytest.fixture(autouse=True)
def _short_spread(monkeypatch):
    monkeypatch.setattr(sampling, "LONGEST", 64)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two seeds with three checkpoints."""
    folder = tmp_path_factory.mktemp("runs")
    return rlgrad.train(
        "CartPole-v1", "relax-network", seeds="1000,1001", total_timesteps=768, save_freq=256,
        eval_episodes=1, log_dir=str(folder), quiet=True,
    )  # fmt: skip


def measured(capsys, *arguments):
    """(the JSON table, what stands on standard error)."""
    assert main(["variance", *map(str, arguments), "--json", *QUICK]) == 0
    output = capsys.readouterr()
    return strict(output.out), output.err


def tags(folder):
    """Tags and steps of the event file in a folder."""
    (path,) = folder.glob("events.*")
    events = EventFileLoader(str(path)).Load()
    return {(value.tag, event.step) for event in events for value in event.summary.value}


def test_a_run_is_measured_as_it_was_in_training(run, tmp_path, capsys):
    folder = tmp_path / "report"
    chosen = ("--run", run.path, "--seed", 1001, "--estimators", "relax,straight-through")
    table, said = measured(capsys, *chosen, "--output", folder)
    assert (table["environment"], table["agent"]) == ("CartPole-v1", "relax-network")
    assert (table["signal"], table["critic"], table["seed"]) == ("gae", "own", 1001)
    assert table["step"] == 768
    assert f"report       {folder}" in said
    names = {path.name for path in folder.iterdir()}
    assert names >= FILES
    assert len(names) == len(FILES) + 1  # and the events
    assert json.loads((folder / "variance.json").read_text()) == table
    lines = list(csv.DictReader(io.StringIO((folder / "variance.csv").read_text())))
    assert len(lines) == len(table["rows"])
    assert float(lines[0]["variance"]) == pytest.approx(table["rows"][0]["variance"]["value"])
    found = tags(folder)
    assert ("variance/relax-trained/ratio", 768) in found
    assert ("variance/variance", 768) in found  # the picture
    assert ("variance/split/action", 768) in found
    report = (folder / "report.html").read_text()
    for row in table["rows"]:
        assert row["label"] in report
    assert "removed by the best baseline of the state" in report


def test_along_a_run(run, tmp_path, capsys):
    folder = tmp_path / "report"
    chosen = ("CartPole-v1", "--run", run.path, "--every", 2, "--estimators", "relax-linear")
    table, _ = measured(capsys, *chosen, "--output", folder)
    assert [each["step"] for each in table["history"]] == [256]
    assert (folder / "along.png").is_file()
    steps = {step for tag, step in tags(folder) if tag == "variance/relax-linear/ratio"}
    assert steps == {256, 768}
    arguments = [*map(str, chosen), "--output", str(tmp_path / "other"), *QUICK]
    assert main(["variance", *arguments]) == 0
    assert "ratio at step" in capsys.readouterr().out


def test_the_table_fits_the_terminal(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    tables, print_table = [], printing.print_table

    def kept(table):
        tables.append(table)
        print_table(table)

    monkeypatch.setattr(printing, "print_table", kept)
    monkeypatch.setenv("COLUMNS", "80")
    names = "relax-linear,gumbel-softmax,all-action-control,disarm"
    assert main(["variance", "CartPole-v1", "--seed", "1000", "--estimators", names, *QUICK]) == 0
    printed = {80: capsys.readouterr().out.splitlines()}
    monkeypatch.setenv("COLUMNS", "120")
    print_table(*tables)
    printed[120] = capsys.readouterr().out.splitlines()
    for columns, lines in printed.items():
        assert max(map(len, lines)) <= columns
        head = next(line for line in lines if line.startswith("estimator"))
        assert ("var" in head.split()) == (columns == 120)
        (refused,) = [line for line in lines if line.startswith(" disarm")]
        assert "an environment gives one" in refused
        (biased,) = [line for line in lines if line.startswith("*gumbel-softmax")]
        assert re.search(r"\d", biased)
        assert sum(line.startswith(">") for line in lines) == 2  # the best, and the legend
    folders = list((tmp_path / "runs" / "variance" / "CartPole-v1").iterdir())
    assert len(folders) == 1
    assert {path.name for path in folders[0].iterdir()} >= FILES


def test_numbers_say_what_is_known():
    inside, outside = Interval(1.0, 0.9996, 1.0004), Interval(1.0, 1.0002, 1.0004)
    assert printing.span(inside) == "0.999-1.001"
    assert printing.span(outside) == "1.000-1.001"
    assert printing.span(Interval(1e-5, 0.9e-5, 1.23e-5)) == "9e-6-1.2e-5"
    assert [printing.rough(x) for x in (1234.0, 12.34, 0.1234)] == ["1200", "12", "0.12"]
    assert [printing.share(x) for x in (None, 1e-6, 0.1234, 11.0)] == [
        "-",
        "<0.1%",
        "12.3%",
        ">999%",
    ]
    assert [printing.statistic(z) for z in (None, 1.23, 1e6, -1e6)] == ["-", "1.2", ">999", "<-999"]


def test_a_fit_that_is_dead_takes_no_column_away(capsys, monkeypatch, tmp_path):
    # Q stays at its start, where all-action is 0 in every lane: a bias without any spread.
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    names = "all-action,relax-linear"
    assert main(["variance", "FrozenLake-v1", "--estimators", names, *QUICK]) == 0
    lines = capsys.readouterr().out.splitlines()
    head = next(line for line in lines if line.startswith("estimator"))
    assert " ".join(head.split()) == "estimator fit bias z ratio 95 % SNR cos µs x time"
    assert "the fits of all-action trained" in " ".join(" ".join(lines).split())
    (dead,) = [line for line in lines if line.startswith("*all-action ")]
    assert ">999" in dead.split()
    assert "…" not in "".join(lines)


def test_from_python(run):
    torch.set_num_threads(2)
    table = rlgrad.variance(
        run=run, estimators=["relax"], states=1100, fit_states=1100, train_steps=2, split_states=0
    )
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    assert isinstance(table, rlgrad.VarianceTable)
    assert strict(json.dumps(table.to_dict(), allow_nan=False))["seed"] == 1000
    assert table.plot().axes
    assert table.html().startswith("<!")
    html = table._repr_html_()
    assert html.count("<tr>") == len(table.rows) + 1
    problem = rlgrad.variance("bandit", "relax,reinforce", draws=100, train_steps=1)
    assert problem.to_dict()["problem"] == "bandit"
    assert problem.plot().axes
    assert problem._repr_html_().count("<tr>") == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "variance needs a PROBLEM, an environment or --run RUN"),
        ("CartPoel-v1", "unknown environment 'CartPoel-v1'; did you mean CartPole-v1"),
        ("Pendulum-v1", "continuous action space"),
        ("CartPole-v1 --draws 7", "got --draws, but it is for problems"),
        ("CartPole-v1 --noise 1", "got --noise, but it is for problems"),
        ("bandit --states 7", "got --states, but bandit is a problem"),
        ("bandit --run latest", "got --run, but bandit is a problem"),
        ("CartPole-v1 --states 0", "--states 0; expected 1"),
        ("CartPole-v1 --every 2", "give one with --run"),
        ("CartPole-v1 --critic own", "a fresh policy has no critic yet"),
        ("CartPole-v1 --agent relx", "unknown agent 'relx'"),
        ("CartPole-v1 --estimators relx", "unknown estimator 'relx'; did you mean relax?"),
        ("CartPole-v1 --estimators exact", "estimator exact needs f at every action"),
        ("CartPole-v1 --run nowhere", "nowhere is no run directory"),
        ("CartPole-v1 --checkpoint nowhere", "nowhere: no such checkpoint file"),
        ("CartPole-v1 --checkpoint {loose}", "lies in no run"),
        ("{run}", "is a run, not an environment; give it with run= or --run"),
        ("Acrobot-v1 --run {run}", "is of CartPole-v1, not of Acrobot-v1"),
        ("--run {run} --agent relax", "leave --agent out"),
        ("--run {run} --seed 5", "has no seed 5; it has 1000, 1001"),
        ("--run {run} --checkpoint {file}", "got both --run and --checkpoint"),
        ("--checkpoint {file} --every 2", "give it with --run"),
        ("--run {empty}", "has no checkpoint yet; let it train on"),
        ("--run {empty} --every 1", "has no checkpoint yet; to measure along training"),
        ("--run {damaged}", "cannot be read as a checkpoint"),
        ("--run {shape}", "its card needs"),
        ("CartPole-v1 --output {there}", "exists; name a new folder"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    run, tmp_path, capsys, monkeypatch, arguments, said
):
    monkeypatch.chdir(tmp_path)
    (newest, *_) = run.checkpoints()[::-1]
    for name in ("empty", "damaged", "shape"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        shutil.copy(run.path / "card.toml", tmp_path / name)
    (tmp_path / "damaged" / "checkpoints" / newest.name).write_bytes(b"no tensors")
    shutil.copy(newest, tmp_path / "shape" / "checkpoints")
    card = tmp_path / "shape" / "card.toml"
    wide = re.sub(r"hidden = \[[^]]*\]", "hidden = [8, 8]", card.read_text())
    card.write_text(wide)
    shutil.copy(newest, tmp_path / "loose")
    names = ("empty", "damaged", "shape", "loose")
    given = {name: tmp_path / name for name in names} | {"run": run.path, "file": newest}
    before = set(tmp_path.rglob("*"))
    spelled = arguments.format(**given, there=tmp_path)
    assert (
        main(["variance", *shlex.split(spelled), *(() if "bandit" in spelled else QUICK[2:])]) == 2
    )
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    assert output.out == ""
    assert said in line
    assert set(tmp_path.rglob("*")) == before


def test_a_damaged_newest_checkpoint_is_left_out(run, tmp_path, capsys):
    shutil.copytree(run.path, tmp_path / "torn")
    *_, good, newest = sorted((tmp_path / "torn" / "checkpoints").glob("step-*"))
    newest.write_bytes(newest.read_bytes()[:-9])
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        table, said = measured(capsys, "--run", tmp_path / "torn", "--estimators", "reinforce")
    assert f"note: left out {newest.name}" in said
    assert table["step"] == int(good.stem.removeprefix("step-"))


def test_one_checkpoint_is_no_course(run, tmp_path, capsys):
    shutil.copytree(run.path, tmp_path / "one")
    for path in sorted((tmp_path / "one" / "checkpoints").iterdir())[:-1]:
        path.unlink()
    assert main(["variance", "--run", str(tmp_path / "one"), "--every", "1"]) == 2
    assert "has one checkpoint; to measure along training, train with --save-freq" in (
        capsys.readouterr().err
    )
