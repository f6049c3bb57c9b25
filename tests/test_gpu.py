"""The same code on CUDA: all tensors there, and close to the CPU's result."""

import pytest
import torch

from rlgrad.cards import resolve
from rlgrad.options import Options
from rlgrad.streams import Purpose, Streams
from rlgrad.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def trained(device: str, agent: str) -> Trainer:
    trainer = Trainer(resolve("CartPole-v1", agent), [0, 1, 2], Options(device=device))
    for _ in range(3):
        trainer.step(measure=True)
    return trainer


AGENTS = ["actor-critic", "relax", "relax-network", "rebar", "reinforce-constant"]


@pytest.mark.parametrize("agent", AGENTS)
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
        for device in ("cpu", "cuda")
    ]
    assert torch.equal(words[0], words[1].cpu())
