"""The same code on CUDA: all tensors there, captured or not, and close to the CPU's result.

``RLGRAD_TEST_DEVICE=cpu`` runs the bodies without a GPU: then nothing is recorded, and only the
lines of these tests are tried.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from static import AGENTS, tensors_everywhere, trainer

import rlgrad
from rlgrad import store
from rlgrad.captured.engine import Captured, captured
from rlgrad.cards import resolve
from rlgrad.evaluation import evaluate
from rlgrad.loading import load_policy
from rlgrad.options import Options
from rlgrad.streams import Purpose, Streams
from rlgrad.trainer import Trainer

DEVICE = os.environ.get("RLGRAD_TEST_DEVICE", "cuda")
CUDA = DEVICE == "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(CUDA and not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture(autouse=True)
def same_lines(monkeypatch):
    if not CUDA:
        tensors_everywhere(monkeypatch)


def program(name: str, iterations: int = 0, recorded: bool = True, **flags) -> Captured:
    engine = Captured(trainer(name, DEVICE, **flags), recorded=recorded and CUDA)
    for _ in range(iterations):
        engine.step()
    engine.read()
    return engine


def near(one: Captured, other: Captured, rtol: float = 1e-3, atol: float = 1e-4) -> None:
    """The same counters, and parameters up to the order of sums."""
    one.read(), other.read()
    for ours, theirs in zip(one.outcomes, other.outcomes, strict=True):
        assert (ours.status, ours.steps, ours.episodes) == (
            theirs.status, theirs.steps, theirs.episodes,
        )  # fmt: skip
        assert ours.mean_return == pytest.approx(theirs.mean_return, nan_ok=True)
    expected = other.state()[0]
    for key, x in one.state()[0].items():
        torch.testing.assert_close(x, expected[key], rtol=rtol, atol=atol, msg=key)


def trained(device: str, agent: str) -> Trainer:
    options = Options(device=device, capture="off")
    it = Trainer(resolve("CartPole-v1", agent), [1000, 1001, 1002], options)
    for _ in range(3):
        it.step(measure=True)
    return it


@pytest.mark.skipif(not CUDA, reason="compares two devices")
@pytest.mark.parametrize("agent", ["actor-critic", "relax", "relax-network", "rebar", "reinforce"])
def test_training_stays_on_the_device_and_near_the_cpu(agent):
    there, here = trained("cuda", agent), trained("cpu", agent)
    assert all(x.is_cuda for x in there.learner.state_dict().values())
    assert there.lanes.env.state.is_cuda
    for name, value in here.learner.state_dict().items():
        other = there.learner.state_dict()[name].cpu()
        # A few updates of 3e-3 at most: an action that differs by rounding moves them little.
        assert torch.allclose(value, other, rtol=0.05, atol=0.05), name


def test_noise_is_the_same_on_both_devices():
    words = [
        Streams([0, 7], device).words(
            Purpose.ACTION, torch.arange(3, device=device), lanes=5, count=11
        )
        for device in ("cpu", DEVICE)
    ]
    assert torch.equal(words[0], words[1].cpu())


@pytest.mark.parametrize("name", AGENTS)
def test_replays_train_as_the_program_does(name):
    eager, replayed = program(name, 10, recorded=False), program(name, 10)
    near(replayed, eager)


@pytest.mark.parametrize("name", ["actor-critic", "relax"])
def test_replays_are_deterministic(name):
    one, other = (program(name, 8).state()[0] for _ in range(2))
    assert all(torch.equal(x, other[key]) for key, x in one.items())


def test_recording_moves_nothing():
    before, after = trainer("relax", DEVICE), program("relax").trainer
    for key, x in before.learner.state_dict().items():
        assert torch.equal(x, after.learner.state_dict()[key]), key
    assert after.iteration == 0


def test_a_recording_for_each_number_of_critic_steps():
    flags = {"total_timesteps": 6 * 128, "anneal_steps": 6 * 128, "learning_rate_final": 0.0}
    eager, replayed = (program("actor-critic", 6, r, **flags) for r in (False, True))
    near(replayed, eager)
    assert {outcome.status for outcome in replayed.outcomes} == {"finished"}
    if CUDA:
        steps = sorted(key[0] for key in replayed.iterate.recorded if not key[1])
        assert steps == [1, 2, 3, 4]


def test_measuring_is_recorded_too():
    engine, other = program("relax"), program("relax", recorded=False)
    for _ in range(3):
        numbers, expected = engine.step(measure=True), other.step(measure=True)
    assert numbers.keys() == expected.keys() >= {"gradient/norm", "gradient/variance"}
    for tag, x in expected.items():
        torch.testing.assert_close(numbers[tag], x, rtol=1e-2, atol=1e-4, msg=tag)
    near(engine, other)


def test_a_seed_that_diverges_is_frozen_alone():
    engine = program("actor-critic", 2)
    engine.trainer.learner.critic.network.flat.data[0, 0] = float("inf")
    frozen = engine.trainer.learner.policy.flat.detach().clone()
    for _ in range(3):
        engine.step()
    engine.read()
    failed, fine = engine.outcomes
    assert (failed.status, failed.steps, fine.status, fine.steps) == ("failed", 256, "running", 640)
    assert torch.equal(engine.trainer.learner.policy.flat[0], frozen[0])
    assert not torch.equal(engine.trainer.learner.policy.flat[1], frozen[1])


def test_solved_seeds_stop_where_they_were_solved():
    inner = trainer("actor-critic", DEVICE, total_timesteps=10_000, stop_when_solved=True)
    inner.solved_at = 20.0
    engine = Captured(inner, recorded=CUDA)
    at = []
    while any(inner.active):
        engine.step()
        engine.read()
        at.append(inner.learner.policy.flat.detach().clone())
    for i, outcome in enumerate(engine.outcomes):
        assert outcome.status == "solved"
        assert outcome.mean_return >= 20.0
        assert outcome.steps == outcome.solved_at_step
        assert all(torch.equal(at[-1][i], x[i]) for x in at[outcome.steps // 128 - 1 :])


def test_one_goes_on_from_the_other():
    whole, first = program("relax-network", 6), program("relax-network", 3)
    first.state()
    last = Captured(first.trainer, recorded=CUDA)
    for _ in range(3):
        last.step()
    last.read()
    near(last, whole)


def test_a_run_with_evaluation_checkpoints_and_resume(tmp_path):
    pytest.importorskip("tensorboard")  # not at hand everywhere that a GPU is
    flags = {"total_timesteps": 1024, "num_envs": 8, "num_steps": 16, "hidden": (16, 16)}
    given = {"device": DEVICE, "quiet": True, "log_dir": str(tmp_path), "eval_episodes": 2}
    run = rlgrad.train(
        "CartPole-v1", "relax", seeds=[1000, 1001], eval_freq=512, save_freq=256, **flags, **given
    )
    assert [seed["steps"] for seed in run.result()["seeds"]] == [1024, 1024]
    tensors, counters = store.load_checkpoint(run.checkpoints()[-1])
    assert counters["iteration"] == 8
    assert all(bool(x.isfinite().all()) for x in tensors.values())
    evaluation = evaluate(load_policy(run, 1000, run.checkpoints()[-1]), "CartPole-v1", 1000, 2)
    assert evaluation.sampled.mean > 0
    longer = rlgrad.resume(run, 2048, log_dir=str(tmp_path), quiet=True)
    assert [seed["steps"] for seed in longer.result()["seeds"]] == [2048, 2048]
    assert {row["step"] for row in longer.metrics()} >= {1024, 2048}


@pytest.mark.skipif(not CUDA, reason="what is said of a GPU")
def test_what_is_captured_is_said():
    options = {"device": "cuda", "quiet": True}
    yes = captured(Trainer(resolve("CartPole-v1", "relax"), [1000], Options(**options)), "on")
    assert "one replay of a CUDA graph" in yes.where
    whole = Trainer(resolve("CartPole-v1", "reinforce"), [1000], Options(**options))
    assert captured(whole, "auto") is whole
    assert any("not captured as a CUDA graph: whole episodes" in note for note in whole.notes)


@pytest.mark.slow
@pytest.mark.skipif(not CUDA, reason="compiles for a GPU")
def test_compiled_steps_train_alike():
    command = [sys.executable, Path(__file__).with_name("compiled.py"), "cuda", "inductor"]
    where = {**os.environ, "PYTHONPATH": str(Path(rlgrad.__file__).parent.parent)}
    done = subprocess.run(command, env=where, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
