"""``rlgrad tune``: which settings are tried, what a study keeps, which card comes of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
from shipped import OWN

import rlgrad
from rlgrad import cards, cli
from rlgrad.card_files import TUNING, find, read_agent
from rlgrad.display import Status
from rlgrad.engine import Outcome
from rlgrad.errors import UsageError
from rlgrad.options import parse_seeds
from rlgrad.tuning import writing
from rlgrad.tuning.records import Trial, Tuned
from rlgrad.tuning.space import Choice, Range, describe, present, settings, space
from rlgrad.tuning.study import JOURNAL, Study
from rlgrad.tuning.trial import CHECKPOINTS, Progress, UnfitError, run, unfit

SMALL = {"seeds": "1000-1001", "total_timesteps": 768, "jobs": 1, "quiet": True}


# ------------------------------------------------------------------------ the space


def holds(dimension: Range | Choice, value: object) -> bool:
    if isinstance(dimension, Range):
        return dimension.low <= value <= dimension.high
    return value in dimension.values


@pytest.mark.parametrize("env", ["CartPole-v1", "Acrobot-v1", "LunarLander-v3"])
@pytest.mark.parametrize("agent", OWN)
def test_a_space_holds_the_card_and_only_what_the_agent_has(agent, env):
    config = cards.resolve(env, agent).config
    dimensions = space(config)
    point = present(dimensions, config)
    assert point.keys() == dimensions.keys()
    assert all(holds(dimensions[name], value) for name, value in point.items())
    told = cards.resolve(env, agent, None, settings(point)).config
    assert {k: v for k, v in vars(told).items() if k != "width"} == {
        k: v for k, v in vars(config).items() if k != "width"
    }
    assert ("critic_learning_rate" in dimensions) == (config.signal != "return-to-go")
    assert ("gae_lambda" in dimensions) == (config.signal == "gae")
    assert ("width" in dimensions) == (config.estimator == "relax-linear")
    assert ("rollout" in dimensions) != ("num_envs" in dimensions)
    assert all(name in describe(dimensions) for name in dimensions)


def test_a_card_outside_the_ranges_widens_them():
    flags = {"learning_rate": 0.5, "hidden": (7, 9), "num_envs": 3, "num_steps": 5}
    config = cards.resolve("CartPole-v1", "actor-critic", None, flags).config
    found = space(config)
    assert found["learning_rate"] == Range(3e-4, 0.5)
    assert "7x9" in found["hidden"].values
    assert "3x5" in found["rollout"].values
    frozen = cards.resolve("CartPole-v1", "actor-critic", None, {"critic_learning_rate": 0}).config
    assert "critic_learning_rate" not in space(frozen)


# ------------------------------------------------------------------------ one trial


def test_the_area_is_of_returns_over_env_steps_and_a_failed_seed_counts_as_random():
    good, bad = Outcome(1000), Outcome(1001)
    reports: list[tuple[int, float]] = []
    seen: list[Status] = []

    def report(checkpoint: int, area: float) -> bool:
        reports.append((checkpoint, area))
        return checkpoint == 5

    progress = Progress([good, bad], 100, 4.0, report, seen.append, lambda: False)
    progress.after()  # before any episode has ended
    assert progress.area() == 4.0
    for step in range(10, 60, 10):
        good.steps, good.mean_return = step, float(step)
        bad.steps, bad.mean_return = step, 1e9
        if step == 20:
            bad.status = "failed"
        assert not progress.stopped
        progress.after()
    # Up to step 50: the return is 10 until the first episode ends at step 10, then it rises.
    rising = np.interp(np.linspace(0, 50, 51), [10, 50], [10.0, 50.0]).mean()
    assert progress.area() == pytest.approx((rising + 4.0) / 2)
    assert [checkpoint for checkpoint, _ in reports] == [1, 2, 3, 4, 5]
    assert progress.pruned
    assert progress.stopped
    assert seen[-1].step == 50
    assert CHECKPOINTS == 10


def test_a_signal_stops_a_trial():
    ends: list[bool] = []
    progress = Progress(
        [Outcome(1000)], 100, 0.0, lambda *_: False, lambda _: None, lambda: bool(ends)
    )
    assert not progress.stopped
    ends.append(True)
    assert progress.stopped


def test_a_setting_that_cannot_be_trained_is_told_apart_and_counts_as_random():
    flags = {"num_envs": 1 << 20, "num_steps": 1 << 20}
    resolved = cards.resolve("CartPole-v1", "actor-critic", None, flags)
    with pytest.raises(UnfitError, match="GiB, and the machine has"):
        run(resolved, [1000], 4.0, lambda *_: False, lambda _: None, lambda: False)
    told = unfit(4.0, 3)
    assert (told["area"], told["failed"]) == (4.0, 3)


# ------------------------------------------------------------------------ a study


DIMENSIONS = {"learning_rate": Range(1e-3, 1e-1), "hidden": Choice(("8x8", "16"))}
START = {"learning_rate": 0.005, "hidden": "8x8"}


def tried(study: Study, count: int) -> None:
    """Trials whose area is a function of the setting alone."""
    while len(study.trials()) < count:
        trial = study.ask(DIMENSIONS, START)
        area = -abs(trial.params["learning_rate"] - 0.02) - (trial.params["hidden"] == "8x8")
        pruned = False
        for checkpoint in range(1, CHECKPOINTS):
            trial.report(area, checkpoint)
            pruned = pruned or bool(trial.should_prune())
        found = {"area": area, "pruned": pruned, "last": None, "failed": 0, "cpu_seconds": 1.0}
        study.tell(trial, {**found, "curve": [(0.0, area), (1.0, area)]})


def opened(folder: Path) -> Study:
    folder.mkdir(exist_ok=True)
    return Study(folder)


def told(trials: list[Trial]) -> list[tuple]:
    return [(t.number, t.settings, t.area, t.pruned) for t in trials]


def test_an_interrupted_study_draws_the_trials_of_an_uninterrupted_one(tmp_path):
    whole = opened(tmp_path / "whole")
    whole.begin({"agent": "relax"})
    tried(whole, 14)
    whole.close()
    cut = tmp_path / "cut"
    for count in (0, 1, 1, 7, 12, 14):
        study = opened(cut)
        tried(study, count)
        study.ask(DIMENSIONS, START)  # under way when the process is killed
        study.close()
        with (cut / JOURNAL).open("ab") as file:
            file.write(b'{"op_code":5,"worker')  # and in the middle of a line
    study = opened(cut)
    assert told(study.trials()) == told(whole.trials())
    study.close()
    first = whole.trials()[0]
    assert first.settings == {"learning_rate": 0.005, "hidden": [8, 8]}
    assert len({str(trial.settings) for trial in whole.trials()}) == 14
    assert any(trial.pruned for trial in whole.trials())


def test_an_interrupted_trial_is_drawn_again(tmp_path):
    study = opened(tmp_path / "study")
    tried(study, 3)
    lost = study.ask(DIMENSIONS, START)
    study.tell(lost, None)
    assert study.ask(DIMENSIONS, START).params == lost.params
    assert len(study.trials()) == 3
    study.close()


@pytest.mark.skipif(os.name == "nt", reason="no limit on the size of files")
def test_a_full_disk_is_one_line_and_keeps_the_trials_that_had_ended(tmp_path):
    import resource

    study = opened(tmp_path / "study")
    tried(study, 2)
    before, limits = told(study.trials()), resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (tmp_path / "study" / JOURNAL).stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, limits[1]))
    try:
        with pytest.raises(UsageError, match="cannot write to"):
            tried(study, 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        study.close()
    study = opened(tmp_path / "study")
    assert told(study.trials()) == before
    tried(study, 3)
    study.close()
    whole = opened(tmp_path / "whole")
    tried(whole, 3)
    assert told(study.trials()) == told(whole.trials())
    whole.close()


def test_a_study_is_held_by_one_process_and_a_damaged_journal_is_named(tmp_path):
    study = opened(tmp_path / "study")
    with pytest.raises(UsageError, match="in use"):
        Study(tmp_path / "study")
    study.close()
    (tmp_path / "study" / JOURNAL).write_text("no journal\n{}\n")
    with pytest.raises(UsageError, match="is no journal of a study"):
        Study(tmp_path / "study")
    assert not (tmp_path / "study" / "lock").exists()


# ------------------------------------------------------------------------ the card


def tuned(trials: list[Trial], agent: str = "relax", env: str = "CartPole-v1") -> Tuned:
    return Tuned(env, agent, (1000, 1001), 512, 20.0, "a space", tuple(trials))


def trial(number: int, area: float, pruned: bool = False, **chosen: object) -> Trial:
    return Trial(
        number, {"num_envs": 4, **chosen}, area, pruned, area, 0, 36.0, [(0.0, 1.0), (9.0, 2.0)]
    )


TRIALS = [
    trial(0, 1.0, learning_rate=0.1),
    trial(1, 9.0, pruned=True, learning_rate=0.2),
    trial(2, 3.0, learning_rate=0.3, hidden=[16, 8]),
]


def test_the_best_is_the_largest_area_of_those_that_were_trained_to_the_end():
    found = tuned(TRIALS)
    assert [each.number for each in found.ranked] == [2, 0, 1]
    assert found.best.number == 2
    record = found.record
    assert record.keys() == TUNING.keys()
    assert record["tuned_trials"] == 3
    assert record["cpu_hours"] == 0.03
    assert parse_seeds(record["seeds"]) == [1000, 1001]
    lone = Tuned("E", "a", (1000, 1005), 1, 0.0, "", tuple(TRIALS)).record["seeds"]
    assert parse_seeds(lone) == [1000, 1005]


@pytest.mark.parametrize("agent", OWN)
def test_a_written_card_trains_with_the_best_settings_and_tells_the_effort(
    agent, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    before = read_agent(find("agents")[agent])
    found = tuned(TRIALS, agent)
    writing.write(found, tmp_path / "agents" / f"{agent}.toml")
    resolved = cards.resolve("CartPole-v1", agent)
    assert resolved.tuning == found.record
    assert resolved.config.num_envs == 4
    assert resolved.config.learning_rate == 0.3
    assert resolved.config.hidden == (16, 8)
    after = read_agent(tmp_path / "agents" / f"{agent}.toml")
    others = {k: v for k, v in after.environments.items() if k != "CartPole-v1"}
    assert others == {k: v for k, v in before.environments.items() if k != "CartPole-v1"}
    assert {**before.tuning, "CartPole-v1": found.record} == after.tuning
    assert after.config == before.config
    text = (tmp_path / "agents" / f"{agent}.toml").read_text()
    writing.write(found, tmp_path / "agents" / f"{agent}.toml")
    assert (tmp_path / "agents" / f"{agent}.toml").read_text() == text


CARD = """summary = "s" # said
source = "t"

[config]
gamma = 0.9

# why
[environments.'Own-v0'] # its own
num_envs = 2

[environments."Other-v0"]
hidden = [
  3,
]
"""


def test_all_else_of_a_card_stays_as_it_was_written():
    text = writing.replaced(CARD, "environments", "Own-v0", {"num_envs": 9}, "here")
    text = writing.replaced(text, "tuning", "Own-v0", {"tuned_trials": 3}, "here")
    wanted = CARD.replace("['", '["').replace("[environments.'Own-v0'] # its own", "")
    for line in ("# why", 'summary = "s" # said', "  3,\n", "gamma = 0.9"):
        assert line in text
        assert line in wanted
    table = tomllib.loads(text)
    assert table["environments"] == {"Own-v0": {"num_envs": 9}, "Other-v0": {"hidden": [3]}}
    assert table["tuning"] == {"Own-v0": {"tuned_trials": 3}}
    assert text.index("[environments") < text.index("[tuning")


@pytest.mark.parametrize(
    "text",
    [
        'summary = "s"\nenvironments = {"Own-v0" = {gamma = 0.5}}\n',
        'summary = "s"\nenvironments."Own-v0".gamma = 0.5\n',
        '[environments."Own-v0"]\nhidden = [\n[1],\n]\n',
    ],
)
def test_a_table_in_another_form_is_refused(text):
    with pytest.raises(UsageError, match="cannot be replaced"):
        writing.replaced(text, "environments", "Own-v0", {"gamma": 0.9}, "here")


# ------------------------------------------------------------------------ what is refused

REFUSED = {
    "reported seeds": ({"seeds": "0-9"}, ["got seed 0", "0-19 and 100-199", "--seeds 1000-1009"]),
    "one reported seed": ({"seeds": [1000, 150]}, ["got seed 150"]),
    "no seeds": ({"seeds": "x"}, ["got seeds 'x'"]),
    "a misspelled environment": ({"env": "CartPol-v1"}, ["CartPol-v1"]),
    "continuous actions": ({"env": "Pendulum-v1"}, ["Pendulum-v1", "Discrete"]),
    "an unknown agent": ({"agents": "relaxx"}, ["unknown agent 'relaxx'", "did you mean"]),
    "a peer": ({"agents": "relax,sb3-ppo"}, ["sb3-ppo is a peer"]),
    "no agents": ({"agents": " , "}, ["got no agents"]),
    "no trials": ({"trials": 0}, ["--trials 0", "1 to 1,000"]),
    "no budget": ({"budget": 0.0}, ["--budget 0", "above 0"]),
    "a budget that is none": ({"budget": float("nan")}, ["--budget nan"]),
    "negative jobs": ({"jobs": -1}, ["--jobs -1"]),
    "no steps": ({"total_timesteps": 0}, ["total_timesteps = 0"]),
    "a file for two agents": (
        {"agents": "relax,rebar", "out": "one.toml"},
        ["one.toml", "several agents", "expected a folder"],
    ),
    "an empty out": ({"out": " "}, ["--out ' '"]),
    "a file that is no card": ({"agents": "relax", "out": "other.toml"}, ["other.toml"]),
    "another agent's card": (
        {"agents": "relax", "out": str(find("agents")["rebar"])},
        ["rebar.toml is the card of another agent", "'rebar' and not 'relax-linear'"],
    ),
    "a place below a file": ({"out": "other.toml/agents"}, ["nothing can be written"]),
}


@pytest.mark.parametrize(("given", "fragments"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_refused_before_anything_is_written(given, fragments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("other.toml").write_text("x = 3\n")
    with pytest.raises(UsageError) as caught:
        rlgrad.tune(**{"env": "CartPole-v1", **SMALL, "log_dir": "runs", **given})
    for fragment in fragments:
        assert fragment in str(caught.value)
    assert sorted(os.listdir()) == ["other.toml"]
    assert Path("other.toml").read_text() == "x = 3\n"


def test_without_optuna_one_line_says_what_to_install(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert cli.main(["tune", "CartPole-v1", "--log-dir", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "rlgrad: tuning needs optuna, which is not installed: pip install 'rlgrad[tune]'"


# ------------------------------------------------------------------------ the whole


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("tune")


@pytest.fixture(scope="module")
def found(place):
    return rlgrad.tune(
        "CartPole-v1", "actor-critic,reinforce-learned", trials=2, log_dir=place, **SMALL
    )


def test_tuning_writes_cards_pictures_and_says_what_was_tried(found, place):
    assert [each.agent for each in found.tuned] == ["actor-critic", "reinforce-learned"]
    for each, card in zip(found.tuned, found.cards, strict=True):
        assert [trial.number for trial in each.trials] == [0, 1]
        config = cards.resolve("CartPole-v1", each.agent).config
        assert each.trials[0].settings["learning_rate"] == config.learning_rate
        assert all(trial.area > 8 and trial.cpu_seconds > 0 for trial in each.trials)
        assert card == place / "tune" / "CartPole-v1" / f"{each.agent}.toml"
        written = read_agent(card)
        assert written.tuning["CartPole-v1"] == each.record
        assert (
            each.best.settings.items()
            <= {
                k: list(v) if isinstance(v, tuple) else v
                for k, v in written.environments["CartPole-v1"].items()
            }.items()
        )
        assert (each.study / "trials.png").read_bytes().startswith(b"\x89PNG")
    told = json.loads(json.dumps(found.to_dict()))
    assert [row["agent"] for row in told["agents"]] == ["actor-critic", "reinforce-learned"]
    assert len(found.plot("reinforce-learned").axes) == 2
    with pytest.raises(UsageError, match="'relax' was not tuned"):
        found["relax"]


def test_the_area_is_what_training_gives(found, tmp_path):
    """A trial's last return is that of the same training by ``rlgrad.train``."""
    best = found["actor-critic"].trials[0]
    run = rlgrad.train(
        "CartPole-v1", "actor-critic", seeds="1000-1001", total_timesteps=768, eval_episodes=1,
        log_dir=str(tmp_path), quiet=True, **best.settings,
    )  # fmt: skip
    means = [seed["mean_return"] for seed in run.result()["seeds"]]
    assert best.last == pytest.approx(sum(means) / 2)


def test_the_same_call_goes_on_and_all_agents_have_as_many_trials(found, place, capsys):
    before = [told(list(each.trials)) for each in found.tuned]
    more = rlgrad.tune("CartPole-v1", "actor-critic", trials=3, log_dir=place, **SMALL)
    (each,) = more.tuned
    assert told(list(each.trials))[:2] == before[0]
    assert each.trials[2].settings not in [trial.settings for trial in each.trials[:2]]
    # The other agent has two: a third one of the first does not count beside it.
    again = rlgrad.tune(
        "CartPole-v1", "actor-critic,reinforce-learned", trials=2, log_dir=place, **SMALL
    )  # nothing is missing: no process is begun
    assert [told(list(each.trials)) for each in again.tuned] == before
    assert [each.left_out for each in again.tuned] == [1, 0]
    with pytest.raises(UsageError, match=r"holds a study with seeds = \[1000, 1001\]"):
        rlgrad.tune(
            "CartPole-v1",
            "actor-critic",
            trials=3,
            log_dir=place,
            **{**SMALL, "seeds": "1002-1003"},
        )


def test_a_study_of_other_ranges_is_not_gone_on_with(tmp_path):
    rlgrad.tune("CartPole-v1", "actor-critic", trials=1, log_dir=tmp_path, **SMALL)
    journal = tmp_path / "tune" / "CartPole-v1" / "actor-critic" / JOURNAL
    text = journal.read_text()
    assert text.count("learning_rate 0.0003 to") == 1
    journal.write_text(text.replace("learning_rate 0.0003 to", "learning_rate 0.0001 to"))
    with pytest.raises(UsageError, match="a study of other ranges"):
        rlgrad.tune("CartPole-v1", "actor-critic", trials=2, log_dir=tmp_path, **SMALL)
    assert "0.0001" in journal.read_text()


@pytest.mark.slow
def test_a_budget_ends_after_the_trial_that_runs_and_says_so(tmp_path, capsys):
    arguments = ["--trials", "3", "--seeds", "1000-1001", "-n", "768", "--budget", "1e-9"]
    names = ["--agents", "actor-critic,relax", "--jobs", "2", "--log-dir", str(tmp_path), "--json"]
    assert cli.main(["tune", "CartPole-v1", *arguments, *names]) == 0
    said = capsys.readouterr()
    for agent in ("actor-critic", "relax"):
        assert f"{agent}: stopped after 1 of 3 trials: its share of the budget" in said.err
    rows = json.loads(said.out)["agents"]
    assert [row["record"]["tuned_trials"] for row in rows] == [1, 1]
    assert "no trial was better than the card as it was" in said.err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_end_by_force_loses_one_trial_at_most(number, tmp_path):
    command = [
        sys.executable, "-m", "rlgrad", "tune", "CartPole-v1", "--agents", "actor-critic",
        "--trials", "40", "--seeds", "1000-1001", "-n", "1024", "--log-dir", str(tmp_path),
    ]  # fmt: skip
    journal = tmp_path / "tune" / "CartPole-v1" / "actor-critic" / JOURNAL
    child = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    for line in child.stderr:
        if "trial 2:" in line:
            break
    child.send_signal(number)
    said = child.communicate(timeout=300)[1]
    assert child.returncode == (130 if number == signal.SIGINT else -number)
    if number == signal.SIGINT:
        assert "trials that had ended are kept" in said
    while (journal.parent / "lock").exists() and _held(journal.parent):  # the orphan notices
        time.sleep(0.2)
    study = Study(journal.parent)
    kept = told(study.trials())
    study.close()
    assert len(kept) >= 3
    more = rlgrad.tune(
        "CartPole-v1", "actor-critic", trials=len(kept) + 1, seeds="1000-1001",
        total_timesteps=1024, log_dir=tmp_path, jobs=1, quiet=True,
    )  # fmt: skip
    assert told(list(more.tuned[0].trials))[:-1] == kept


def _held(folder: Path) -> bool:
    try:
        Study(folder).close()
    except UsageError:
        return True
    return False
