"""The code that a GPU runs, where simulators, acting and storage are torch, tried on the CPU.

On the CPU the same lines run on numpy arrays; here the simulator is told not to. Both round alike
up to the order of sums, so a few updates end close together, and no action differs.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from shipped import OWN

from rlgrad.cards import resolve
from rlgrad.options import Options
from rlgrad.simulators.base import TorchVectorEnv
from rlgrad.trainer import Trainer

torch.set_num_threads(1)
CASES = [("CartPole-v1", agent) for agent in OWN] + [("Acrobot-v1", "relax")]


def trained(env: str, agent: str) -> Trainer:
    flags = {"max_episode_steps": 40, "hidden": (16, 16)}
    trainer = Trainer(resolve(env, agent, None, flags), [1, 2], Options(quiet=True))
    if not TorchVectorEnv.numpy_on_cpu:
        learner = trainer.learner
        learner.actor = lambda: lambda x: learner.logits(x).detach()
    for _ in range(4):
        trainer.step()
    return trainer


@pytest.mark.parametrize(("env", "agent"), CASES)
def test_training_in_tensors_is_that_in_arrays(env, agent, monkeypatch):
    arrays = trained(env, agent)
    monkeypatch.setattr(TorchVectorEnv, "numpy_on_cpu", False)
    tensors = trained(env, agent)
    assert isinstance(tensors.lanes.simulator._state, torch.Tensor)
    assert isinstance(arrays.lanes.simulator._state, np.ndarray)
    for name, expected in arrays.learner.state_dict().items():
        found = tensors.learner.state_dict()[name]
        torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-4, msg=name)
    for ours, theirs in zip(arrays.outcomes, tensors.outcomes, strict=True):
        assert ours.steps == theirs.steps > 0
        assert ours.episodes == theirs.episodes > 0
        assert ours.mean_return == pytest.approx(theirs.mean_return, rel=1e-5)
