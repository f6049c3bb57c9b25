"""Ways to hold a program to what a CUDA graph can hold, and the GPU's code on any device."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from rlgrad.cards import resolve
from rlgrad.estimators import arrays
from rlgrad.options import Options
from rlgrad.simulators.base import TorchVectorEnv
from rlgrad.trainer import Trainer

SMALL = {"max_episode_steps": 40, "hidden": (16, 16), "num_envs": 8, "num_steps": 16}
AGENTS = {  # name: (card, flags)
    "actor-critic": ("actor-critic", {}),
    "n-step": ("actor-critic", {"signal": "n-step", "n_step": 5}),
    "normalised": ("actor-critic", {"observation_scale": (), "value_scale": 0.0}),
    "rewards": ("actor-critic", {"normalize_observations": "on", "normalize_rewards": True}),
    "relax": ("relax", {}),
    "relax-network": ("relax-network", {}),
    "relax-environment": ("relax-network", {"objective": "environment"}),
    "relax-independent": ("relax-network", {"coupling": "independent"}),
    "rebar": ("rebar", {"thinning": 2}),
    "gumbel-softmax": ("gumbel-softmax", {}),
    "muprop": ("muprop", {}),
    "reinforce-learned": ("reinforce-learned", {"signal": "gae"}),
}
# Operations whose result the host must have, or whose shape depends on numbers.
ASKING = {
    "_local_scalar_dense", "equal", "is_nonzero", "item", "masked_select", "nonzero",
    "nonzero_static", "repeat_interleave.Tensor", "unique_consecutive", "_unique", "_unique2",
    "unique_dim", "bincount",
}  # fmt: skip
COPYING = {"lift", "lift_fresh", "lift_fresh_copy"}  # of numbers that the host has just made


def tensors_everywhere(monkeypatch) -> None:
    """Take the lines that a GPU takes, also on the CPU."""
    monkeypatch.setattr(arrays, "numpy_on_cpu", False)
    monkeypatch.setattr(TorchVectorEnv, "numpy_on_cpu", False)


def trainer(name: str, device: str = "cpu", env: str = "CartPole-v1", **flags) -> Trainer:
    """A small agent of a few seeds, by default two."""
    seeds = range(1000, 1000 + flags.pop("seeds", 2))
    stop = flags.pop("stop_when_solved", False)
    card, own = AGENTS[name]
    options = Options(quiet=True, capture="off", stop_when_solved=stop)
    object.__setattr__(options, "device", device)  # "meta" is none that a user may choose
    return Trainer(resolve(env, card, None, SMALL | own | flags), list(seeds), options)


class Static(TorchDispatchMode):
    """Refuses operations that ask the device or copy to it; writes down all others.

    Args:
        device: where every tensor must be.
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device, self.seen = device, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function).removeprefix("aten.")
        bare = name.split(".")[0]
        assert not {name, bare} & (ASKING | COPYING), f"{name} asks, or copies from the host"
        given = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
        if bare.startswith("index"):
            assert not any(x.dtype == torch.bool for x in given[1:2]), f"{name} by a mask"
        result = function(*args, **(kwargs or {}))
        made = [x for x in tree_flatten(result)[0] if isinstance(x, torch.Tensor)]
        assert {x.device.type for x in (*given, *made)} <= {self.device}, name
        self.seen.append((name, *(tuple(x.shape) for x in made)))
        return result
