"""The best of each seed by evaluation is kept, whatever else is removed, and can be loaded."""

from __future__ import annotations

import json

import pytest
import torch

import rlgrad
from rlgrad import best, store
from rlgrad.cli import main
from rlgrad.errors import UsageError
from rlgrad.evaluation import evaluate
from rlgrad.lab import freeze

torch.set_num_threads(1)
SMALL = {
    "num_envs": 2, "num_steps": 16, "hidden": (8,), "quiet": True, "eval_freq": 160,
    "eval_episodes": 3, "save_freq": 160, "keep_last": 1, "total_timesteps": 960,
}  # fmt: skip


def evaluations(run, seed):
    """(env steps, mean return) in the order of training."""
    rows = [row for row in run.metrics() if row["seed"] == seed and "eval/mean_reward" in row]
    return [(row["step"], row["eval/mean_reward"]) for row in rows]


def first_best(points):
    return max(points, key=lambda point: (point[1], -point[0]))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("runs"))
    # A large step size, so that the last is not the best.
    return rlgrad.train(
        "CartPole-v1", "actor-critic", seeds="1000-1002", log_dir=folder, learning_rate=0.3, **SMALL
    )


def test_the_best_of_each_seed_is_kept_beside_the_last(run):
    assert len(run.checkpoints()) == 1
    late = []
    for row, seed in enumerate(run.seeds):
        points = evaluations(run, seed)
        assert len(points) == 6
        step, mean = first_best(points)
        late.append(step == points[-1][0])
        _, about = store.load_checkpoint(run.best(seed))
        assert (about["seeds"], about["steps"], about["mean"]) == ([seed], [step], mean)
        # The row of a checkpoint that is that of the best is the same.
        if late[-1]:
            ours, theirs = (
                store.load_checkpoint(p)[0] for p in (run.best(seed), run.checkpoints()[0])
            )
            assert all(torch.equal(x, theirs[name][row : row + 1]) for name, x in ours.items())
    assert not all(late)  # else nothing above tells the best from the last


def test_what_is_loaded_scores_what_was_recorded(run):
    for seed in run.seeds:
        agent = rlgrad.load(run, seed, which="best")
        mean = first_best(evaluations(run, seed))[1]
        evaluation = evaluate(agent.policy, run.env_id, seed, 3)
        assert evaluation.sampled.mean == mean
    last = int(run.checkpoints()[0].stem.partition("-")[2])
    here, there = (rlgrad.load(run, 1001, which=each).policy for each in (last, "last"))
    assert torch.equal(here.policy.flat, there.policy.flat)
    with pytest.raises(
        UsageError, match=f"no checkpoint at 5 env steps; the nearest are at {last}"
    ):
        rlgrad.load(run, which=5)
    with pytest.raises(UsageError, match="expected last, best, or the env steps"):
        rlgrad.load(run, which="worst")
    with pytest.raises(UsageError, match="has no seed 7"):
        rlgrad.load(run, 7, which=last)


def test_only_a_better_evaluation_replaces_it(run):
    (newest,) = run.checkpoints()
    path, seed = run.best(1000), 1000
    data, mean = path.read_bytes(), best.best_mean(path)
    for worse in (mean, mean - 1, float("nan"), float("inf")):
        assert not best.keep_best(run, seed, newest, worse)
        assert path.read_bytes() == data
    assert best.keep_best(run, seed, newest, mean + 1)
    assert best.best_mean(path) == mean + 1
    path.write_bytes(data[:-5])
    with pytest.raises(UsageError, match=r"best-1000.*cannot be read as a checkpoint"):
        rlgrad.load(run, seed, which="best")
    with pytest.warns(UserWarning, match="best-1000.* is replaced by the next evaluation"):
        assert best.keep_best(run, seed, newest, mean)
    path.write_bytes(data)


def test_the_command_line_knows_it(run, capsys):
    command = ["evaluate", str(run.path), "--json", "--episodes", "2"]
    for flags, steps in (
        (["--best"], [first_best(evaluations(run, seed))[0] for seed in run.seeds]),
        ([], [evaluations(run, seed)[-1][0] for seed in run.seeds]),
    ):
        assert main([*command, *flags]) == 0
        assert [row["step"] for row in json.loads(capsys.readouterr().out)] == steps
    assert main([*command, "--best", "--step", "3"]) == 2
    assert capsys.readouterr().err == "rlgrad: got both --best and --step; expected one of them\n"


def test_variance_is_measured_at_the_best_too(run):
    path = run.best(1001)
    frozen = freeze.stored(freeze.run_of(path), path, seed=1001)
    assert frozen.step == first_best(evaluations(run, 1001))[0]
    assert frozen.learner.critic is not None
    with pytest.raises(UsageError, match=r"its seeds are \[1001\], and seed 1000 is asked for"):
        rlgrad.variance(estimators="reinforce", checkpoint=path, seed=1000)


def test_a_peer_has_one_too(tmp_path):
    run = rlgrad.train(
        "CartPole-v1", "sb3-a2c", seeds="1000,1001", total_timesteps=600, eval_freq=256,
        eval_episodes=2, log_dir=str(tmp_path), quiet=True,
    )  # fmt: skip
    for seed in run.seeds:
        step, mean = first_best(evaluations(run, seed))
        _, about = store.load_checkpoint(run.best(seed))
        assert (about["steps"], about["mean"]) == ([step], mean)
        agent = rlgrad.load(run, seed, which="best")
        assert evaluate(agent.policy, run.env_id, seed, 2).sampled.mean == mean


def test_a_run_without_evaluation_says_so(run):
    bare = store.read_run(run.path)
    with pytest.raises(UsageError, match=r"has no best-1.safetensors: it was not evaluated yet"):
        best.find_checkpoint(bare, "best", 1)
