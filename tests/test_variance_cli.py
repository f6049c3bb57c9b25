"""``rlgrad variance`` and ``rlgrad list problems`` as a user meets them."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from kept_runs import strict

from rlgrad.cli import main
from rlgrad.estimators import ESTIMATORS
from rlgrad.problems import PROBLEMS

QUICK = ("--draws", "500", "--train-steps", "2")


@pytest.mark.parametrize("name", PROBLEMS)
def test_json_has_every_estimator(name, capsys):
    assert main(["variance", name, "--json", *QUICK, "--noise", "0.5"]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    table = strict(output.out)
    assert (table["problem"], table["noise"]) == (name, 0.5)
    assert (table["draws"], table["train_steps"]) == (500, 2)
    named = {row["estimator"] for row in table["results"] + table["refused"]}
    assert named == ESTIMATORS.keys()
    for row in table["results"]:
        assert row["variance"] >= 0
        assert row["cost"] == pytest.approx(row["variance"] * row["evaluations"])
    assert table["best"] in {row["label"] for row in table["results"]}


@pytest.mark.parametrize("name", ["bandit", "toy"])
def test_the_table_fits_a_terminal_of_80_columns(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["variance", name, *QUICK]) == 0
    output = capsys.readouterr()
    lines = output.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith(">") for line in lines) == 2  # the best, and the legend
    for estimator in ESTIMATORS:
        (first, *_) = [line for line in lines if line[1:].startswith(estimator)]
        assert re.search(r"\d|needs", first), first
    assert output.err == ""  # progress is for terminals


def test_estimators_are_chosen_by_name(capsys):
    chosen = "relax, reinforce,reinforce"
    assert main(["variance", "dice", "--estimators", chosen, "--json", *QUICK]) == 0
    labels = [row["label"] for row in strict(capsys.readouterr().out)["results"]]
    assert sorted(labels) == ["reinforce", "relax trained", "relax untrained"]


def test_the_seed_decides(capsys):
    found = []
    for seed in ("0", "0", "1"):
        command = ("variance", "bandit", "--estimators", "relax,learned", "--seed", seed, "--json")
        assert main([*command, *QUICK]) == 0
        rows = strict(capsys.readouterr().out)["results"]
        found.append({row["label"]: (row["bias"], row["variance"]) for row in rows})
    assert found[0] == found[1]
    assert all(found[0][label] != found[2][label] for label in found[0])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "PROBLEM"),
        ("''", "unknown environment ''"),
        ("bandti", "unknown problem 'bandti'; did you mean bandit?"),
        ("bandit toy", "toy"),
        ("bandit --estimators relx", "unknown estimator 'relx'; did you mean relax?"),
        ("bandit --estimators ''", "unknown estimator ''"),
        ("bandit --estimators relax,", "unknown estimator ''"),
        ("bandit --draws 1", "--draws 1; expected 2"),
        ("bandit --draws 1.5", "1.5"),
        ("bandit --draws 1e300", "--draws"),
        ("bandit --draws -5", "--draws -5"),
        ("bandit --train-steps -1", "--train-steps -1; expected 0"),
        ("bandit --seed -1", "--seed -1"),
        ("bandit --seed 99999999999999999999", "--seed 99999999999999999999"),
        ("bandit --noise -1", "noise = -1"),
        ("bandit --noise nan", "--noise nan"),
        ("bandit --noise much", "much"),
        ("bandit --logit 1", "bandit has no option 'logit'"),
        ("toy --logit inf", "--logit inf"),
        ("bandit --drawz 3", "unknown option --drawz; did you mean --draws"),
    ],
)
def test_bad_input_is_one_line_and_status_2(capsys, arguments, said):
    import shlex

    assert main(["variance", *shlex.split(arguments)]) == 2
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    assert output.out == ""
    assert line.startswith("rlgrad: ")
    assert said in line


def test_an_estimator_that_cannot_be_served_alone_is_an_error(capsys):
    binary = [name for name, cls in ESTIMATORS.items() if cls.traits.binary]
    if not binary:
        pytest.skip("there is none")
    assert main(["variance", "bandit", "--estimators", binary[0]]) == 2
    assert "needs factors of 2 categories, bandit has 4" in capsys.readouterr().err


def test_an_interruption_is_no_traceback(capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("rlgrad.lab.entry.measure_all", interrupted)
    assert main(["variance", "bandit"]) == 130
    assert capsys.readouterr().err == "rlgrad: interrupted\n"


def test_progress_is_one_passing_line_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert main(["variance", "bandit", "--estimators", "reinforce", *QUICK]) == 0
    shown = capsys.readouterr().err
    assert "bandit: reinforce" in shown
    assert "\n" not in shown
    assert all(len(each) <= 39 for each in shown.split("\r"))
    assert shown.split("\r")[-2].strip() == ""  # nothing stays


def test_help_explains_the_options():
    command = [sys.executable, "-m", "rlgrad", "variance", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for flag in ("--estimators", "--draws", "--train-steps", "--seed", "--noise", "--logit"):
        assert flag in done.stdout


def test_problems_are_listed(capsys):
    assert main(["list", "problems", "--json"]) == 0
    assert [row["name"] for row in strict(capsys.readouterr().out)] == list(PROBLEMS)
    assert main(["list", "problems"]) == 0
    assert "256" in capsys.readouterr().out
