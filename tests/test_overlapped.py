"""Collecting in two halves changes nothing: the policy in tensors, environments on the CPU."""

from __future__ import annotations

import os

import pytest
import torch
from static import tensors_everywhere

from rlgrad.cards import resolve
from rlgrad.options import Options
from rlgrad.rows import LaneError
from rlgrad.trainer import Trainer

torch.set_num_threads(1)
# Python 3.12 and later warn of fork beside threads; the workers only step environments.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
FLAGS = {"max_episode_steps": 30, "hidden": (16, 16), "num_envs": 5, "num_steps": 16}


def trainer(vec: str, agent: str = "relax", device: str = "cpu", **flags) -> Trainer:
    card = resolve("CartPole-v1", agent, None, FLAGS | flags)
    return Trainer(card, [1000, 1001], Options(vec=vec, device=device, quiet=True))


def alike(one: Trainer, other: Trainer, iterations: int = 6) -> None:
    """Both train on the same steps, and to the same parameters up to rounding."""
    for _ in range(iterations):
        rollouts = []
        for it in (one, other):
            rollout, it.observation = it._collect(it.observation)
            it._update(rollout, measure=False)
            it._count(rollout)
            it.iteration += 1
            rollouts.append(rollout)
        first, second = rollouts
        assert torch.equal(first.valid, second.valid)
        # Actions that were the same lead to the same bits, whoever chose them.
        for name in ("observation", "action", "reward", "terminated", "truncated"):
            ours, theirs = (getattr(rollout, name)[first.valid] for rollout in rollouts)
            assert torch.equal(ours, theirs), name
        ended = first.valid & first.truncated
        if ended.any():
            assert torch.equal(first.final[ended], second.final[ended])
        assert one.whole or torch.equal(first.last, second.last)
    assert one.outcomes == other.outcomes
    assert sum(outcome.episodes for outcome in one.outcomes) > 4
    expected = other.learner.state_dict()
    for name, x in one.learner.state_dict().items():
        torch.testing.assert_close(x, expected[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("vec", ["sync", "async"])
@pytest.mark.parametrize(
    ("agent", "flags"),
    [
        ("relax", {}),
        ("actor-critic", {"num_envs": 2, "num_steps": 1}),
        ("actor-critic", {"observation_scale": (), "value_scale": 0.0, "num_steps": 33}),
        ("reinforce", {}),  # whole episodes, which end the collection early
    ],
)
def test_two_halves_train_as_the_whole_does(vec, agent, flags, monkeypatch):
    tensors_everywhere(monkeypatch)
    whole, halves = trainer("sync", agent, **flags), trainer(vec, agent, **flags)
    assert not whole.overlaps
    halves.overlaps = True
    alike(halves, whole, 60 if flags.get("num_steps") == 1 else 6)
    whole.close(), halves.close()


@pytest.mark.parametrize("vec", ["sync", "async"])
def test_one_goes_on_where_the_other_stopped(vec, monkeypatch):
    tensors_everywhere(monkeypatch)
    whole, halves = trainer(vec), trainer(vec)
    for turn in range(4):
        halves.overlaps = turn % 2 == 0
        whole.step(), halves.step()
    assert torch.equal(torch.as_tensor(whole.observation), torch.as_tensor(halves.observation))
    ours, theirs = (it.state()[0] for it in (halves, whole))
    places = [name for name in ours if name.startswith("lanes.")]
    assert places
    assert all(torch.equal(ours[name], theirs[name]) for name in places)
    whole.close(), halves.close()


@pytest.mark.parametrize("vec", ["sync", "async"])
def test_an_environment_that_fails_in_a_half_is_named(vec, monkeypatch):
    tensors_everywhere(monkeypatch)
    it = trainer(vec)
    it.overlaps = True
    it.step()
    # Time stands in the environment that its fourth lane of the second seed has.
    it.lanes.chunked.set_attr("steps_beyond_terminated", [None] * 8 + ["wrong"] + [None])
    it.lanes.chunked.set_attr("state", [(0.0,) * 4] * 8 + [None] + [(0.0,) * 4])
    with pytest.raises(LaneError, match="environment 3 of seed 1001"):
        it.step()
    it.close()


def test_without_a_gpu_all_lanes_step_together():
    assert not any(trainer(vec).overlaps for vec in ("auto", "sync"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("vec", ["sync", "async"])
@pytest.mark.parametrize("agent", ["relax", "actor-critic", "reinforce"])
def test_on_a_gpu_two_halves_train_as_the_whole_does(vec, agent):
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    whole, halves = trainer("sync", agent, "cuda"), trainer(vec, agent, "cuda")
    assert whole.overlaps
    assert any("while the others step" in note for note in whole.notes)
    whole.overlaps = False
    alike(halves, whole)
    whole.close(), halves.close()
