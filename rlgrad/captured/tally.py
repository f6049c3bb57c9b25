"""Steps, episodes and ends of S seeds, counted on the device: nothing is asked of it meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rlgrad.rollout import Rollout

RUNNING, FINISHED, SOLVED, FAILED, STOPPED = range(5)
STATUS: tuple[Literal["running", "finished", "solved", "failed", "stopped"], ...]
STATUS = "running", "finished", "solved", "failed", "stopped"
"""Names of the numbers in ``Tally.status``, as ``Outcome.status`` has them."""
UPDATE, REWARD, OBSERVATION = range(3)
"""What was not finite where a seed failed: what the update left, or what the environment gave."""


def since_last_end(sums: Float[Tensor, "K S T N"], done: Bool[Tensor, "S T N"]) -> Tensor:
    """Running sums over time, without what each lane's earlier episodes in them come to."""
    time = torch.arange(done.shape[1], device=done.device).view(1, -1, 1)
    last = torch.where(done, time, -1).cummax(1).values
    before = torch.cat([torch.full_like(last[:, :1], -1), last[:, :-1]], 1)
    ended = sums.gather(2, before.clamp(min=0).expand_as(sums))
    return sums - torch.where(before < 0, 0.0, ended)


class Tally(nn.Module):
    """Counters of S seeds with N lanes; a seed that is done keeps what it has.

    Args:
        seeds: S.
        lanes: N.
        window: last episodes that means are over.
        total: env steps after which a seed is finished.
        solved_at: mean return at which a seed counts as solved; None: never.
        stop_when_solved: whether it stops then.
    """

    carry: Tensor
    recent: Tensor
    count: Tensor
    steps: Tensor
    status: Tensor
    cause: Tensor
    solved_at_step: Tensor

    def __init__(
        self,
        seeds: int,
        lanes: int,
        window: int,
        total: int,
        solved_at: float | None,
        stop_when_solved: bool,
    ) -> None:
        super().__init__()
        self.window, self.total = window, total
        self.solved_at, self.stop_when_solved = solved_at, stop_when_solved
        one = torch.zeros(seeds, dtype=torch.int64)
        # One slot more than the window, for rows that end no episode.
        ring = torch.zeros(2, seeds, window + 1, dtype=torch.float64)
        self.register_buffer("carry", torch.zeros(2, seeds, lanes, dtype=torch.float64))
        self.register_buffer("recent", ring)
        for name in ("count", "steps", "status", "cause"):
            self.register_buffer(name, one.clone())
        self.register_buffer("solved_at_step", one - 1)

    def take(self, episodes: Mapping[str, Tensor]) -> None:
        """Go on from ``Episodes.state``."""
        self.carry.copy_(episodes["episodes.carry"].transpose(0, 1))
        self.count.copy_(episodes["episodes.count"])
        rows = zip(episodes["episodes.recent"], self.count.tolist(), strict=True)
        turned = [row.roll(max(0, count - self.window), 0) for row, count in rows]
        self.recent[..., : self.window] = torch.stack(turned).movedim(-1, 0)

    def given(self) -> dict[str, Tensor]:
        """As ``Episodes.state``, on the CPU: the oldest episode first."""
        ring, counts = self.recent[..., : self.window].movedim(0, -1).cpu(), self.count.cpu()
        rows = zip(ring, counts.tolist(), strict=True)
        turned = [row.roll(-max(0, count - self.window), 0) for row, count in rows]
        return {
            "episodes.carry": self.carry.transpose(0, 1).cpu(),
            "episodes.recent": torch.stack(turned),
            "episodes.count": counts,
        }

    @property
    def running(self) -> Bool[Tensor, " S"]:
        """Which seeds still train."""
        return self.status == RUNNING

    def means(self) -> Float[Tensor, "2 S"]:
        """Mean return and length of each seed's last episodes; NaN before the first."""
        known = self.count.clamp(max=self.window)
        return self.recent[..., : self.window].sum(-1) / known

    def add(self, rollout: Rollout, good: Bool[Tensor, " S"]) -> None:
        """Take in an iteration.

        Args:
            rollout: of all seeds.
            good: which seeds' numbers are finite after the update.
        """
        self._fail(rollout, ~good & self.running)
        running = self.running
        self._fold(rollout, running)
        self.steps += rollout.valid.flatten(1).sum(1) * running
        if self.solved_at is not None:
            enough = (self.count >= self.window) & (self.means()[0] >= self.solved_at)
            first = enough & running & (self.solved_at_step < 0)
            self.solved_at_step.copy_(torch.where(first, self.steps, self.solved_at_step))
        status = torch.where(self.steps >= self.total, FINISHED, RUNNING)
        if self.stop_when_solved:
            status = torch.where(self.solved_at_step >= 0, SOLVED, status)
        self.status.copy_(torch.where(running, status, self.status))

    def _fail(self, rollout: Rollout, failed: Bool[Tensor, " S"]) -> None:
        """Note which seeds have diverged, and on what."""
        given = [x.flatten(1).isfinite().all(1) for x in (rollout.reward, rollout.observation)]
        cause = torch.where(given[1], UPDATE, OBSERVATION)
        cause = torch.where(given[0], cause, REWARD)
        self.cause.copy_(torch.where(failed, cause, self.cause))
        self.status.copy_(torch.where(failed, FAILED, self.status))

    def _fold(self, rollout: Rollout, running: Bool[Tensor, " S"]) -> None:
        """Put the episodes that ended into the ring, in the order of time and lane."""
        valid = rollout.valid
        done = (rollout.terminated | rollout.truncated) & valid & running.view(-1, 1, 1)
        each = torch.stack([torch.where(valid, rollout.reward, 0.0), valid.to(torch.float32)])
        sums = each.to(torch.float64).cumsum(2) + self.carry.unsqueeze(2)
        open_ = since_last_end(sums, done)
        within = done.cumsum(2)  # in two steps: a device scans many short rows faster than a long
        through = within[..., -1].cumsum(1)
        earlier = (self.count.unsqueeze(1) + through - within[..., -1]).unsqueeze(2)
        number, flat = (earlier + within).flatten(1), done.flatten(1)  # of each episode, from 1
        count = number[:, -1:]
        kept = flat & (number > count - self.window)
        slot = torch.where(kept, (number - 1) % self.window, self.window)
        # Rows that are left out all write a 0 to the same slot, in any order.
        ended = torch.where(kept, open_.flatten(2), 0.0)
        self.recent.scatter_(2, slot.expand_as(ended), ended)
        left = torch.where(done[:, -1], 0.0, open_[:, :, -1])
        self.carry.copy_(torch.where(running.view(-1, 1), left, self.carry))
        self.count.copy_(count.squeeze(1))
