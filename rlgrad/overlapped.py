"""Collecting where environments step on the CPU and the policy runs on a GPU: both at once.

The lanes of every seed are two halves. While the environments of one half step, the actions of the
other are on their way: its observations go to the GPU and its actions come back by copies that the
host does not wait for. Noise belongs to lanes, so the actions are those that ``rollout.collect``
takes, up to the rounding of a policy that sees half as many rows at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rlgrad.lanes import Lanes
from rlgrad.rollout import Policy, Rollout, Store


class Half:
    """Some lanes of every seed, and what they are about to do.

    Everything on the GPU is asked for in the order in which it is needed, so one stream serves both
    halves: what they save is waiting for it.

    Args:
        lanes: of a chunked environment.
        policy: logits of observations, tensors on the noise's device.
        store: takes what comes of every step.
        part: which lanes of each seed.
        observation: ``[L, width]`` of all lanes to start from; kept up to date.
        alive: ``[L]`` bool, see ``rollout.collect``; kept up to date.
    """

    def __init__(
        self,
        lanes: Lanes,
        policy: Policy,
        store: Store,
        part: slice,
        observation: Any,
        alive: Any,
    ) -> None:
        self.lanes, self.policy, self.store, self.alive = lanes, policy, store, alive
        self.observation, self.noise = observation, store.gumbel[:, :, part]
        S, self.length, N, D, _ = self.noise.shape
        every = np.arange(lanes.count).reshape(S, -1)
        self.which = every[:, part].reshape(-1)
        """``[n]`` numbers of the lanes."""
        self.on_gpu = store.gumbel.is_cuda
        # The host's ends of the copies stay where they are, and a GPU may write to them by itself.
        self.seen = torch.empty(
            S, N, lanes.width, dtype=getattr(torch, lanes.dtype), pin_memory=self.on_gpu
        )
        self.chosen = torch.empty(S, N, D, dtype=torch.int64, pin_memory=self.on_gpu)
        self.ready = torch.cuda.Event() if self.on_gpu else None
        self.time, self.stepping = 0, False
        self._choose()

    def _choose(self) -> None:
        """Ask for the next actions."""
        if self.over:
            return
        self.seen.copy_(torch.from_numpy(self.observation[self.which]).view_as(self.seen))
        seen = self.seen.to(self.noise.device, non_blocking=True)
        choice = self.policy(seen) + self.noise[:, self.time]
        self.chosen.copy_(choice.argmax(-1), non_blocking=True)
        if self.ready is not None:
            self.ready.record()

    @property
    def over(self) -> bool:
        """Whether no further step is taken."""
        done = self.alive is not None and not self.alive[self.which].any()
        return self.time == self.length or done

    def begin(self) -> None:
        """Set the environments going, once their actions have come."""
        if self.over:
            return
        if self.ready is not None:
            self.ready.synchronize()
        self.action = self.chosen.numpy().reshape(len(self.which), -1).copy()
        self.lanes.begin(self.action, self.which)
        self.stepping = True

    def finish(self) -> None:
        """Take in what came of the step under way, and ask for the next actions."""
        if not self.stepping:
            return
        which, step = self.which, self.lanes.finish(self.which)
        counts = True if self.alive is None else self.alive[which]
        seen = self.observation[which]
        self.store.write((self.time, which), seen, self.action, step, counts)
        self.observation[which] = step.observation
        if self.alive is not None:
            self.alive[which] &= ~(step.terminated | step.truncated)
        self.time, self.stepping = self.time + 1, False
        self._choose()


@torch.no_grad()
def collect_in_halves(
    lanes: Lanes,
    policy: Policy,
    observation: Any,
    gumbel: Float[Tensor, "S T N D A"],
    alive: Any = None,
) -> tuple[Rollout, Any]:
    """As ``rollout.collect``, for chunked environments with at least two lanes of each seed.

    Where workers step the environments, they have one half's step to do while the other's results
    are fetched and its actions chosen. Where this process does, it steps one half while the GPU
    works for the other.
    """
    N, observation = gumbel.shape[2], observation.copy()
    alive = None if alive is None else alive.copy()
    store = Store(np, gumbel, lanes.width, lanes.dtype)
    first, second = (
        Half(lanes, policy, store, part, observation, alive)
        for part in (slice(0, N // 2), slice(N // 2, N))
    )
    assert lanes.chunked is not None
    elsewhere = lanes.chunked.has_workers
    for _ in range(gumbel.shape[1]):
        for half, other in ((first, second), (second, first)):
            half.begin()
            (other if elsewhere else half).finish()
    for half in (first, second):
        half.finish()
    return store.rollout(observation), observation
