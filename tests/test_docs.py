"""What the pages say of the estimators and agents is what the code says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from rlgrad.cli import main
from rlgrad.estimators import ESTIMATORS, build, measure
from rlgrad.listing import agents, estimators
from rlgrad.problems import problem

ROOT = Path(__file__).resolve().parent.parent
ESTIMATORS_PAGE = (ROOT / "docs" / "estimators.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")
LETTERS = {
    "baseline.flat": "V",
    "q.flat": "q",
    "q.network.flat": "q",
    "control.network.flat": "c",
    "eta": "η",
    "log_temperature": "τ",
}


def rows(page: str) -> dict[str, list[str]]:
    """Rows of a page's tables whose first cell is a name in code: name -> further cells."""
    lines = re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", page, flags=re.MULTILINE)
    return {name: cells.split(" | ") for name, cells in lines}


def expected(row: dict) -> list[str]:
    """Cells of an estimator's row, but for the measured time."""
    name, toy = row["name"], problem("toy")
    estimator = build(name).to(toy.logits.dtype)
    trained = [LETTERS[each] for each, _ in estimator.named_parameters()]
    assert bool(trained) == estimator.traits.trained
    count = measure(estimator, toy.logits, toy.f, 2).evaluations
    answers = (estimator.traits.unbiased, estimator.traits.context, estimator.traits.one_pass)
    unbiased, context, one_pass = ("yes" if each else "no" for each in answers)
    if estimator.traits.enumerable:
        assert count == toy.choices + 1
    f = "A^D + 1" if estimator.traits.enumerable else str(count)
    return [unbiased, row["needs"], ", ".join(trained) or "-", context, one_pass, f]


@pytest.mark.parametrize("row", estimators(), ids=lambda row: row["name"])
def test_the_table_of_estimators_is_their_traits(row):
    cells = rows(ESTIMATORS_PAGE)[row["name"]]
    assert cells[:-1] == expected(row)
    assert re.fullmatch(r"\d+\.\d\d|-|1", cells[-1])


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_is_derived_with_its_source_and_chosen(name):
    derivation = ESTIMATORS_PAGE.partition("## Notation")[2].partition("## Cost")[0]
    chart = re.search(r"```text\n(Few enough.*?)```", ESTIMATORS_PAGE, flags=re.DOTALL)[1]
    assert f"**`{name}`**" in derivation
    identifiers = re.findall(r"(?:arXiv|doi):\S+?(?=[;,)\s]|$)", ESTIMATORS[name].source)
    for identifier in identifiers:
        assert identifier in derivation
    if name != "reinforce" and name != "all-action":  # what nobody would choose outside RL
        assert re.search(rf"[\s,]{name}[\s,]", chart)


def test_the_readme_names_every_agent_with_its_signal_and_estimator():
    shown = {name: cells[:3] for name, cells in rows(README).items() if len(cells) == 4}
    unbiased = {name: each.traits.unbiased for name, each in ESTIMATORS.items()}
    for agent in (each for each in agents() if not each["algorithm"]):
        signal, estimator, honest = shown[agent["name"]]
        assert (signal, estimator) == (agent["signal"], f"`{agent['estimator']}`")
        assert honest.startswith("no") == (not unbiased[agent["estimator"]])


def test_the_readme_names_every_peer_with_its_algorithm():
    for agent in agents():
        if agent["algorithm"]:
            assert re.search(rf"\| `{agent['name']}` \| `{agent['algorithm']}` \|", README)


def quoted() -> dict[str, dict[str, float]]:
    """Variances in the quoted outputs of ``rlgrad variance``: command's options -> row -> value."""
    tables: dict[str, dict[str, float]] = {}
    for page in (ESTIMATORS_PAGE, README):
        for command, block in re.findall(
            r"`rlgrad variance ([^`]*)`[^`]*```text\n(.*?)```", page, flags=re.DOTALL
        ):
            line = re.compile(r"^.(\S.*?) +(-|yes|no) +\d+ +\S+ +\S+ +(\S+) +\S+ +\S+ +\S+ +\S+$")
            found = filter(None, map(line.match, block.splitlines()))
            table = tables.setdefault(command, {})
            for label, trained, variance in (match.groups() for match in found):
                stage = {"-": "", "yes": " trained", "no": " untrained"}[trained]
                table[label + stage] = float(variance)
    return tables


@pytest.mark.slow
@pytest.mark.parametrize("command", quoted())
def test_quoted_variances_are_what_the_command_prints(command, capsys):
    # Those of trained members are recorded by the tests of each; training them takes a minute.
    said = {k: v for k, v in quoted()[command].items() if not k.endswith(" trained")}
    assert len(said) >= 4
    names = {max(filter(label.startswith, ESTIMATORS), key=len) for label in said}
    options = ["--train-steps", "0", "--draws", "50000", "--json"]
    assert main(["variance", *command.split(), "--estimators", ",".join(names), *options]) == 0
    measured = json.loads(capsys.readouterr().out)["results"]
    variances = {row["label"]: row["variance"] for row in measured}
    for label, variance in said.items():
        # The page has twice the draws, the same seed and so half of them in common.
        assert variances[label] == pytest.approx(variance, rel=0.05), label
