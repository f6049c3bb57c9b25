"""What a user adds: the page's estimator and card do what the page says, and nothing unasked."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
from problems import Z_BOUND

import rlgrad
from rlgrad.cli import main
from rlgrad.errors import UsageError
from rlgrad.estimators import Estimator, Traits, build, measure
from rlgrad.problems import problem

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text("utf-8")
OWN = "linear_baseline:LinearBaseline"
# What makes the page's commands short: what they print is not looked at here.
SHORTER = {
    "train": "-n 512 --eval-episodes 1 --quiet",
    "compare": "-n 512 --eval-episodes 10 --jobs 1",
    "evaluate": "--episodes 1",
    "variance CartPole-v1": "--states 1024 --fit-states 1024 --split-states 0 --train-steps 2",
    "variance bandit": "--draws 500 --train-steps 2",
    "list": "--json",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with the page's files, whose module was not imported."""
    shutil.copy(ROOT / "examples/linear_baseline.py", tmp_path)
    shutil.copytree(ROOT / "examples/agents", tmp_path / "agents")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("linear_baseline", None)


def forgotten() -> None:
    """As in a new process."""
    sys.modules.pop("linear_baseline", None)


@pytest.mark.parametrize(
    ("language", "file"), [("python", "linear_baseline.py"), ("toml", "agents/linear.toml")]
)
def test_the_page_shows_the_files(language, file):
    shown = re.search(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)[1]
    assert shown == (ROOT / "examples" / file).read_text("utf-8")


@pytest.mark.slow
def test_the_commands_of_the_page_run(folder, capsys):
    blocks = re.findall(r"```(?:sh|console)\n(.*?)```", PAGE, flags=re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) >= 7
    for command in commands:
        _, name, first, *rest = shlex.split(command)
        shorter = SHORTER.get(f"{name} {first}") or SHORTER[name]
        forgotten()
        assert main([name, first, *rest, *shorter.split()]) == 0, capsys.readouterr().err
    named = {path.parent.parent.name for path in folder.glob("runs/CartPole-v1/*/*/card.toml")}
    assert named == {"reinforce+linear_baseline-LinearBaseline", "linear", "reinforce-constant"}


def test_it_is_unbiased_and_varies_as_its_kind_does(folder):
    # Seed 0; four logits within Z_BOUND each.
    table = rlgrad.variance("bandit", ["constant", OWN], draws=5_000, train_steps=0)
    rows = {row.label: row for row in table.results}
    assert rows["LinearBaseline"].z < Z_BOUND
    assert rows["LinearBaseline"].variance == pytest.approx(rows["constant"].variance, rel=0.02)


def test_it_learns_what_is_linear(folder):
    # Values that are linear in the context leave nothing but what the ridge and one batch do.
    rlgrad.variance("toy", [OWN], draws=2, train_steps=0)  # imports it
    own = build(OWN, categories=3, context=2, seeds=2, decay=1.0)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5000, 2, generator=generator)
    draw = own.sample(torch.zeros(2, 5000, 1, 3), generator=generator)
    value = torch.stack([1 + 2 * x[0, :, 0], 3 - x[1, :, 1]])
    before = own.gradient(draw, value, context=x)
    own.observe(draw, value, context=x)
    after = own.gradient(draw, value, context=x)
    assert after.square().mean() < 1e-4 * before.square().mean()
    own.rescale(torch.tensor([[2.0], [3.0]]))
    scaled = own.gradient(draw, value * torch.tensor([[2.0], [3.0]]), context=x)
    assert scaled.square().mean() < 1e-3 * before.square().mean()


@pytest.mark.slow
def test_a_seed_trains_alike_alone_and_in_company(folder):
    given = {"estimator": OWN, "total_timesteps": 2000, "eval_episodes": 1, "quiet": True}
    alone = rlgrad.train("CartPole-v1", "reinforce", seeds=[1001], **given)
    company = rlgrad.train("CartPole-v1", "reinforce", seeds=[1000, 1001, 1002], **given)
    one, three = (rlgrad.load(run, seed=1001).policy for run in (alone, company))
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, three.state_dict()[name]), name


@pytest.mark.slow
def test_a_run_goes_on_bit_for_bit_and_its_module_needs_consent(folder):
    given = {"estimator": OWN, "eval_episodes": 1, "quiet": True}
    whole = rlgrad.train("CartPole-v1", "reinforce", total_timesteps=3000, **given)
    part = rlgrad.train("CartPole-v1", "reinforce", total_timesteps=1500, **given)
    forgotten()
    for read in (rlgrad.load, rlgrad.resume):
        with pytest.raises(UsageError, match=r"for its estimator; .*--env-module linear_baseline"):
            read(part)
    # Schedules follow the budget, so this one is resumed with that of the other from its start.
    again = rlgrad.resume(part, total_timesteps=3000, env_modules=["linear_baseline"])
    assert again.result()["seeds"][0]["steps"] >= 3000
    assert rlgrad.load(whole, env_modules=["linear_baseline"]) is not None


def test_a_card_has_nothing_imported(folder, capsys):
    (folder / "linear_baseline.py").write_text("raise SystemExit('imported')\n")
    assert main(["train", "CartPole-v1", "--agent", "linear", "-n", "64"]) == 2
    told = capsys.readouterr().err
    assert "not imported; if you trust it, pass --env-module linear_baseline" in told
    assert not (folder / "runs").exists()


WRONG = {
    "linear_baseline:LinearBase": "no Estimator; in linear_baseline did you mean LinearBaseline",
    "linear_baseline:Tensor": "is no Estimator",
    "nowhere_at_all:Mine": "cannot import module 'nowhere_at_all'",
    ":Mine": "cannot import module ''",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_name_is_told_before_anything_is_written(folder, name, capsys):
    for command in (
        ["train", "CartPole-v1", "--estimator", name],
        ["variance", "bandit", "--estimators", name],
        ["variance", "CartPole-v1", "--estimators", name],
    ):
        assert main(command) == 2
        assert WRONG[name] in " ".join(capsys.readouterr().err.split())
    assert not (folder / "runs").exists()


class Unfinished(Estimator):
    traits = Traits(unbiased=True)


def test_what_is_not_whole_is_refused():
    with pytest.raises(UsageError, match="has no gradient, source"):
        build(f"{__name__}:Unfinished")


def test_from_python_a_class_of_this_module(folder):
    rlgrad.variance("toy", [OWN], draws=2, train_steps=0)
    bandit = problem("bandit")
    own = build(OWN, *bandit.logits.shape)
    found = measure(own, bandit.logits, bandit.f, draws=100)
    assert found.variance > 0
    json.dumps(rlgrad.variance("bandit", OWN, draws=100, train_steps=0).to_dict())
