"""``rlgrad compare``: what is trained and reused, what is said, what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tensorboard_server import serving

import rlgrad
from rlgrad import cli
from rlgrad.comparison import analysis, plan, summaries
from rlgrad.comparison.gathering import gather
from rlgrad.comparison.plan import Request, Task
from rlgrad.comparison.writing import destination, write
from rlgrad.errors import UsageError
from rlgrad.store import read_run

SMALL = {"total_timesteps": 2_000, "eval_episodes": 10, "quiet": True, "jobs": 2}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def found(runs):
    return rlgrad.compare(
        "CartPole-v1", agents="reinforce,relax", seeds="1000-1002", log_dir=runs, **SMALL
    )


def cards(runs: Path) -> set[Path]:
    return set(runs.glob("*/*/*/card.toml"))


def test_agents_are_trained_and_scored(found):
    assert found.agents == ["reinforce", "relax"]
    assert [s.seeds for s in found.summaries] == [3, 3]
    assert [[r.seed for r in e.seeds] for e in found.entries] == [[1000, 1001, 1002]] * 2
    for summary, entry in zip(found.summaries, found.entries, strict=True):
        scores = [r.evaluation["sampled"]["mean"] for r in entry.seeds]
        assert summary.mean.value == pytest.approx(sum(scores) / 3)
        assert summary.median.value == sorted(scores)[1]
        assert summary.iqm.low <= summary.iqm.value <= summary.iqm.high
        assert summary.together == 3
        assert summary.seconds_alone is None  # none of them had a process of its own
        assert summary.solved == 0
        assert math.isinf(summary.steps_to_solve.value)  # 2,000 env steps are too few: censored
    p, q = found.improvement["relax"]["reinforce"], found.improvement["reinforce"]["relax"]
    assert p.value + q.value == pytest.approx(1)
    assert 15 < found.floors["CartPole-v1"] < 30  # random actions fall after some 22 steps


def test_finished_runs_are_reused_and_only_missing_seeds_trained(found, runs):
    before = cards(runs)
    again = rlgrad.compare(
        "CartPole-v1", agents=["relax", "reinforce"], seeds="1000-1002", log_dir=runs, **SMALL
    )
    assert cards(runs) == before
    assert again.agents == ["relax", "reinforce"]
    assert {s.agent: s.iqm for s in again.summaries} == {s.agent: s.iqm for s in found.summaries}
    more = rlgrad.compare("CartPole-v1", agents="relax", seeds="1001-1003", log_dir=runs, **SMALL)
    (fresh,) = cards(runs) - before
    assert read_run(fresh.parent).seeds == (1003,)
    assert [r.seed for r in more.entries[0].seeds] == [1001, 1002, 1003]


def test_a_seed_that_was_stopped_before_its_evaluation_is_trained_anew(found, tmp_path):
    (entry,) = (entry for entry in found.entries if entry.agent == "relax")
    (run,) = entry.runs
    copy = tmp_path / "CartPole-v1" / "relax" / run.name
    shutil.copytree(run, copy)
    result = json.loads((copy / "result.json").read_text())
    result["seeds"][-1]["evaluation"] = None
    (copy / "result.json").write_text(json.dumps(result))
    given = {"seeds": "1000-1002", "log_dir": tmp_path, **SMALL}
    again = rlgrad.compare("CartPole-v1", agents="relax", **given)
    (fresh,) = cards(tmp_path) - {copy / "card.toml"}
    assert read_run(fresh.parent).seeds == (1002,)
    (judged,) = again.entries
    assert [r.evaluation for r in judged.seeds] == [r.evaluation for r in entry.seeds]


def request(runs: Path, **changed) -> Request:
    small = Request(
        ("CartPole-v1",), ("relax",), (1000, 1001), {"total_timesteps": 2_000},
        log_dir=str(runs), eval_episodes=10,
    )  # fmt: skip
    return dataclasses.replace(small, **changed)


def test_runs_of_another_card_budget_or_version_are_not_reused(found, runs, monkeypatch):
    assert plan.make(request(runs)).tasks == []
    both = [Task("CartPole-v1", "relax", (1000, 1001))]
    assert plan.make(request(runs, flags={"total_timesteps": 2_001})).tasks == both
    assert plan.make(request(runs, eval_episodes=11)).tasks == both
    assert plan.make(request(runs, env_kwargs={"sutton_barto_reward": True})).tasks == both
    assert plan.make(request(runs, retrain=True)).tasks == both
    then = {**plan.versions(), "torch": "1.0"}
    monkeypatch.setattr(plan, "versions", lambda: then)
    planned = plan.make(request(runs))
    assert planned.tasks == both
    assert "other versions (torch" in planned.notes[0]


def test_blocks_fill_the_cores():
    seeds = tuple(range(20))
    divide = plan._divided
    ours = [("E", agent, False, seeds) for agent in "abc"]
    assert len(divide(ours, 2)) == 3  # three processes' worth of work for two cores
    assert len(divide(ours, 12)) == 12  # and for twelve: blocks of five
    assert len(divide(ours, 100)) == 12  # not smaller
    peers = divide([("E", "sb3", True, seeds), *ours], 2)
    assert [t.agent for t in peers] == ["sb3"] * 4 + list("abc")
    assert sorted(s for t in peers if t.agent == "sb3" for s in t.seeds) == list(seeds)
    assert divide([("E", "a", False, ())], 2) == []


def test_one_seed_alone_has_seconds_of_its_own(runs, found):
    alone = rlgrad.compare(
        "CartPole-v1", agents="relax", seeds="1000-1002", log_dir=runs, alone=True, **SMALL
    )
    (entry,) = alone.entries
    assert {r.together for r in entry.seeds} == {3}
    assert [(r.seed, r.together) for r in entry.alone] == [(1000, 1), (1003, 1)][:1]
    # The same seed got the same parameters, and so the same score.
    assert entry.alone[0].evaluation == entry.seeds[0].evaluation
    assert entry.alone[0].cpu_seconds > entry.seeds[0].cpu_seconds


def test_runs_are_judged_as_they_are(found, runs):
    paths = [path for entry in found.entries for path in entry.runs]
    again = rlgrad.compare(*paths)
    assert again.to_dict()["summaries"] == found.to_dict()["summaries"]
    assert again.verdicts == found.verdicts


def test_two_cards_of_one_agent_are_told_apart(tmp_path):
    runs = [
        rlgrad.train(
            "CartPole-v1", "actor-critic", seeds=2, learning_rate=rate, total_timesteps=500,
            eval_episodes=10, log_dir=tmp_path, quiet=True,
        )
        for rate in (1e-3, 1e-2)
    ]  # fmt: skip
    found = rlgrad.compare(*[run.path for run in runs])
    assert found.agents == [
        "actor-critic (learning_rate 0.001)",
        "actor-critic (learning_rate 0.01)",
    ]
    assert list(found.differences) == ["learning_rate"]


def test_it_says_where_cards_differ_and_how_few_seeds_there_are(found):
    assert found.differences["anneal_steps"] == {"100000": ["reinforce"], "60000": ["relax"]}
    assert not {"estimator", "signal", "temperature", "width"} & found.differences.keys()
    assert any("fewer than 5" in line for line in found.warnings)
    # Few scores that do not overlap leave the bootstrap without doubt, so they claim nothing.
    (line,) = found.verdicts
    assert line.startswith("too few seeds for a claim about")
    assert "3 against 3 seeds" in line


def test_a_failed_seed_counts_with_the_score_of_random_actions(found):
    entry = found.entries[0]
    broken = dataclasses.replace(entry.seeds[0], status="failed")  # once evaluated, then failed
    worse = dataclasses.replace(entry, seeds=(broken, *entry.seeds[1:]))
    assert summaries.scores(worse, 22.0).tolist()[0] == 22.0
    again = dataclasses.replace(found, entries=(worse, *found.entries[1:]))
    assert again.summaries[0].failed == 1
    assert any("seeds failed: reinforce on CartPole-v1 (1)" in line for line in again.warnings)


def many(found, scores: dict[str, float], **changed):
    """A comparison of five seeds each, with scores of one's own."""
    entries = []
    for entry, (agent, score) in zip(found.entries, scores.items(), strict=True):
        seeds = tuple(
            dataclasses.replace(
                entry.seeds[0], seed=i, evaluation={way: {"mean": score + i, "episodes": 10,
                "deviation": 0.0, "unfinished": 0} for way in ("sampled", "argmax")},
            )
            for i in range(5)
        )  # fmt: skip
        entries.append(dataclasses.replace(entry, agent=agent, seeds=seeds, **changed))
    return dataclasses.replace(found, entries=tuple(entries))


def test_claims_need_no_scale_and_follow_the_scores(found):
    # All below random actions, and no score that counts as solved.
    again = many(found, {"bad": -300.0, "good": -200.0}, solved_at=None)
    assert again.verdicts[0].startswith("good scores above bad (probability 1.00")
    assert "no difference shown" in many(found, {"a": 1.0, "b": 1.0}).verdicts[0]
    assert "<iframe srcdoc=" in again._repr_html_()  # what a notebook shows
    flat = many(found, {"a": 0.0, "b": 0.0}, solved_at=None)
    assert flat.html()  # nothing is divided by nothing


def test_environments_without_a_scale_are_left_out_and_named(found):
    other = many(found, {"reinforce": -5.0, "relax": -5.0}, solved_at=None, env="Flat-v0")
    both = dataclasses.replace(
        found, entries=(*found.entries, *other.entries), floors={**found.floors, "Flat-v0": 0.0}
    )
    assert any("no scale on Flat-v0" in line for line in both.warnings)
    floor = found.floors["CartPole-v1"]
    relax = next(s for s in found.summaries if s.agent == "relax")
    expected = (relax.mean.value - floor) / (475 - floor)
    assert both.aggregate["relax"]["mean"].value == pytest.approx(expected)


def test_agents_that_trained_longer_are_named(found):
    longer = [dataclasses.replace(r, steps=2 * r.steps) for r in found.entries[0].seeds]
    entry = dataclasses.replace(found.entries[0], seeds=tuple(longer))
    again = dataclasses.replace(found, entries=(entry, *found.entries[1:]))
    assert any("different numbers of env steps on CartPole-v1" in line for line in again.warnings)


def test_it_says_where_tuning_met_reported_seeds(found):
    entry = dataclasses.replace(found.entries[0], tuning={"seeds": "1002-1010", "tuned_trials": 3})
    again = dataclasses.replace(found, entries=(entry, *found.entries[1:]))
    assert "reinforce was tuned on 1 of the 3 seeds" in " ".join(again.warnings)
    entry = dataclasses.replace(found.entries[0], tuning={"seeds": "2000-2010"})
    apart = dataclasses.replace(found, entries=(entry,))
    assert not any("tuned" in line for line in apart.warnings)
    assert "1002-1010" in again.html()


def test_several_environments_are_normalised(tmp_path):
    found = rlgrad.compare(
        "CartPole-v1", "FrozenLake-v1", agents="actor-critic,relax", seeds=2, log_dir=tmp_path,
        total_timesteps=1_000, eval_episodes=10, quiet=True, jobs=2,
    )  # fmt: skip
    assert found.envs == ["CartPole-v1", "FrozenLake-v1"]
    assert len(found.summaries) == 4
    floor = found.floors["CartPole-v1"]
    first = found.summaries[0]
    x = [(s.mean.value - found.floors[s.env]) / (top - found.floors[s.env])
         for s, top in zip(found.summaries, [475.0, 475.0, 0.7, 0.7], strict=True)
         if s.agent == first.agent]  # fmt: skip
    assert found.aggregate[first.agent]["mean"].value == pytest.approx(sum(x) / 2)
    assert floor > 0


# ----------------------------------------------------------------------------- output


def test_the_report_is_whole_or_not_at_all(found, tmp_path):
    folder = tmp_path / "report"
    write(found, folder)
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {"report.html", "comparison.json", "seeds.csv", "agents.csv"} <= names
    assert any(name.endswith(".png") for name in names)
    assert any(name.startswith("relax/events.") for name in names)
    text = (folder / "report.html").read_text()
    assert "http://" not in text.replace("http://www.w3.org/", "")
    assert "https://" not in text
    assert json.loads((folder / "comparison.json").read_text()) == found.to_dict()
    assert len((folder / "seeds.csv").read_text().splitlines()) == 1 + 6
    with pytest.raises(UsageError, match="exists"):
        destination(["CartPole-v1"], str(folder), "runs")
    assert write(found, folder) == tmp_path / "report_1"  # a name that is taken is left alone
    blocked = tmp_path / "file"
    blocked.write_text("")
    for refuse in (
        lambda: write(found, blocked / "report"),
        lambda: destination(["CartPole-v1"], str(blocked / "report"), "runs"),
    ):
        with pytest.raises(UsageError):
            refuse()
    assert blocked.read_text() == ""


def test_what_cannot_be_kept_is_shown_all_the_same(found, tmp_path, monkeypatch, capsys):
    from rlgrad.comparison import comparing, writing

    def refuse(found, folder):
        raise UsageError("disk full")

    monkeypatch.setattr(comparing, "compare", lambda *targets, **asked: found)
    monkeypatch.setattr(writing, "write", refuse)
    assert cli.main(["compare", "CartPole-v1", "--log-dir", str(tmp_path), "--json"]) == 2
    said = capsys.readouterr()
    assert json.loads(said.out)["agents"] == ["reinforce", "relax"]
    assert "rlgrad: disk full" in said.err
    assert "relax" in said.err


def test_json_has_no_infinity(found):
    text = json.dumps(found.to_dict(), allow_nan=False)
    unsolved = {"value": None, "low": None, "high": None}
    assert json.loads(text)["summaries"][0]["steps_to_solve"] == unsolved


# ----------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["compare"], "expected environments"),
        (["compare", "CartPole-v9"], "unknown environment 'CartPole-v9'"),
        (["compare", "CartPole-v1", "--agents", "rleax"], "unknown agent 'rleax'"),
        (["compare", "CartPole-v1", "--agents", ""], "no agents"),
        (["compare", "CartPole-v1", "--seeds", "0"], "got seeds '0'"),
        (["compare", "CartPole-v1", "-n", "0"], "total_timesteps = 0"),
        (["compare", "CartPole-v1", "--jobs", "-1"], "--jobs -1"),
        (["compare", "CartPole-v1", "--eval-episodes", "3"], "at least 10"),
        (["compare", "Pendulum-v1", "--agents", "relax"], "continuous action space"),
        (["compare", "CartPole-v1", "."], "not both"),
        (["compare", "."], "is no run directory"),
        (["compare", ".", "--seeds", "3"], "--seeds is for training"),
        (["compare", "runs/nothing"], "runs/nothing"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def copied(run: Path, to: Path, **changed) -> Path:
    """A copy of a run with another result."""
    to.mkdir()
    for name in ("card.toml", "run.json", "metrics.jsonl"):
        (to / name).write_bytes((run / name).read_bytes())
    result = json.loads((run / "result.json").read_text())
    for key, value in changed.items():
        result["seeds"][0][key] = value
    (to / "result.json").write_text(json.dumps(result))
    return to


def test_runs_that_were_not_resumed_exactly_are_told(found, tmp_path):
    torn = copied(found.entries[0].runs[0], tmp_path / "torn")
    result = json.loads((torn / "result.json").read_text())
    (torn / "result.json").write_text(json.dumps({**result, "exact": False}))
    warnings = rlgrad.compare(torn, found.entries[1].runs[0]).warnings
    (line,) = (line for line in warnings if "exactly" in line)
    assert "as they stood: reinforce (3); an uninterrupted" in line
    assert not any("exactly" in line for line in found.warnings)


def test_runs_that_cannot_be_compared_are_named(found, tmp_path):
    good = found.entries[0].runs[0]
    unfinished = copied(good, tmp_path / "unfinished")
    (unfinished / "result.json").unlink()
    interrupted = copied(good, tmp_path / "interrupted", status="interrupted")
    unevaluated = copied(good, tmp_path / "unevaluated", evaluation=None)
    few = {"mean": 1.0, "deviation": 0.0, "least": 1.0, "most": 1.0, "mean_length": 1.0}
    few |= {"episodes": 1, "unfinished": 0}
    scarce = copied(good, tmp_path / "scarce", evaluation={"sampled": few, "argmax": few})
    damaged = copied(good, tmp_path / "damaged")
    (damaged / "result.json").write_text("{}")
    for path, said in (
        (unfinished, "is not finished"), (interrupted, "was interrupted"),
        (unevaluated, "has no evaluation"), (scarce, "on 1 episodes"), (damaged, "damaged"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=said) as error:
            rlgrad.compare(path)
        assert str(path) in str(error.value)


def test_environments_that_share_no_agents_are_not_mixed(found, tmp_path):
    run = rlgrad.train(
        "Acrobot-v1", "relax", seeds=1, total_timesteps=300, eval_episodes=10,
        log_dir=tmp_path, quiet=True,
    )  # fmt: skip
    with pytest.raises(UsageError, match="runs on Acrobot-v1 have no reinforce"):
        rlgrad.compare(*found.entries[0].runs, *found.entries[1].runs, run.path)


# ----------------------------------------------------------------------------- processes

DEADLY = """
import os
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv

class Deadly(CartPoleEnv):
    count = 0
    def step(self, action):
        Deadly.count += 1
        if Deadly.count > {after}:
            {how}
        return super().step(action)

gymnasium.register("Deadly-v0", Deadly, max_episode_steps=50)
"""


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("os.kill(os.getpid(), 9)", "its process ended with status -9"),
        ("raise RuntimeError('the pole broke')", "the pole broke"),
    ],
)
def test_a_process_that_dies_takes_only_its_own_seeds(how, said, tmp_path, monkeypatch):
    (tmp_path / "deadly.py").write_text(DEADLY.format(after=600, how=how))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError) as error:
        rlgrad.compare(
            "CartPole-v1", "deadly:Deadly-v0", agents="relax", seeds=1, log_dir=tmp_path / "runs",
            env_modules=["deadly"], **SMALL,
        )  # fmt: skip
    assert said in str(error.value)
    assert "relax on deadly:Deadly-v0, seed 0" in str(error.value)
    assert "the same command goes on" in str(error.value)
    (kept,) = (tmp_path / "runs").glob("CartPole-v1/*/*/result.json")
    assert json.loads(kept.read_text())["seeds"][0]["status"] == "finished"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_keeps_what_there_is_and_leaves_no_process(number, tmp_path):
    command = (
        "compare", "CartPole-v1", "--agents", "relax,actor-critic", "--seeds", "2", "-n", "5e6",
        "--log-dir", str(tmp_path), "--jobs", "2",
    )  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "rlgrad", *command], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("*/*/*/metrics.jsonl"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    children = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    assert len(children) == 2
    process.send_signal(number)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "interrupted" in error
    assert "Traceback" not in error
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(int(child), 0)
    results = list(tmp_path.glob("*/*/*/result.json"))
    assert len(results) == 2  # each worker saved what it had
    assert all(json.loads(r.read_text())["seeds"][0]["status"] == "interrupted" for r in results)
    assert not list(tmp_path.glob("compare/**/*"))


def test_a_seed_that_two_runs_hold_counts_once(found):
    runs = [read_run(path) for entry in found.entries for path in entry.runs]
    assert gather([*runs, *runs]) == gather(runs)


# ----------------------------------------------------------------------------- TensorBoard


@pytest.mark.slow
def test_tensorboard_shows_agents_side_by_side(found, runs):
    folder = destination(["CartPole-v1"], None, str(runs))
    write(found, folder)
    with serving(runs) as get:
        here = str(folder.relative_to(runs))
        tags = get("/data/plugin/scalars/tags")
        for entry, summary in zip(found.entries, found.summaries, strict=True):
            own = f"{here}/{entry.agent}"
            assert {"compare/ep_rew_iqm", "compare/return_iqm"} <= tags[own].keys()
            query = {"tag": "compare/ep_rew_iqm", "run": own}
            points = get("/data/plugin/scalars/scalars", query=query)
            line = analysis.curve(entry, "rollout/ep_rew_mean")
            assert [step for _, step, _ in points] == [round(x) for x in line.x]
            assert [y for *_, y in points] == pytest.approx(line.value, rel=1e-6)
            query = {"tag": "compare/return_iqm", "run": own}
            ((_, _, last),) = get("/data/plugin/scalars/scalars", query=query)
            assert last == pytest.approx(summary.iqm.value, rel=1e-6)
            # The runs themselves are in the same tree.
            (run,) = entry.runs
            assert "rollout/ep_rew_mean" in tags[f"{run.relative_to(runs)}/seed-1000"]
        images = get("/data/plugin/images/tags")[here]
        assert "compare/scores" in images
        query = {"tag": "compare/scores", "run": here, "sample": "0"}
        (image,) = get("/data/plugin/images/images", query=query)
        picture = get(f"/data/plugin/images/individualImage?{image['query']}", raw=True)
        assert picture == (folder / "scores.png").read_bytes()
        experiment = get("/data/plugin/hparams/experiment", {})
        assert {"agent", "seeds"} <= {each["name"] for each in experiment["hparamInfos"]}
