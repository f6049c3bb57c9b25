"""A training's processes where there are several: shares of lanes, and what is put together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlgrad.errors import UsageError, is_out_of_memory, out_of_memory
from rlgrad.estimators.pooling import Pool
from rlgrad.ranks.group import Group
from rlgrad.ranks.launch import AgreedError, LostError
from rlgrad.ranks.pool import Spread
from rlgrad.ranks.shares import is_of_lanes, joined, own, share
from rlgrad.rollout import Rollout

_COUNTED = ("terminated", "truncated", "valid")


class Many:
    """``Ranks`` of a group.

    Args:
        group: of the processes.
    """

    def __init__(self, group: Group) -> None:
        self.group, self.rank, self.size = group, group.rank, group.size
        self.leads = group.rank == 0
        self.pool: Pool = Spread(group)
        self.cpu_seconds, self.signal = 0.0, 0
        """The first signal that another process has reported; 0: none."""
        self.asked: Callable[[], int] = lambda: 0
        """Gives the signal that asked this process to end; 0: none."""
        self._mine = range(0)

    def lanes(self, total: int) -> range:
        """This process's share; see ``shares.share``."""
        self._mine = share(total, self.rank, self.size)
        return self._mine

    # ---------------------------------------------------------------------------- rollouts

    def counted(self, rollout: Rollout, spent: float) -> Rollout | None:
        """What is counted, of all lanes, at the leader; what processes report goes with it."""
        head = torch.tensor([float(self.asked()), spent], dtype=torch.float64)
        body = _packed(rollout)
        rows = self.group.gather(torch.cat([head.view(torch.uint8), body.cpu()]))
        if not rows:
            return None
        heads = [row[:16].clone().view(torch.float64).tolist() for row in rows]
        self.hear([(int(signal), cpu) for signal, cpu in heads])
        return _unpacked([row[16:] for row in rows], rollout)

    def report(self, spent: float) -> None:
        """Reports without a rollout."""
        mine = torch.tensor([float(self.asked()), spent], dtype=torch.float64)
        rows = [row.tolist() for row in self.group.gather(mine)]
        self.hear([(int(signal), cpu) for signal, cpu in rows])

    def hear(self, reports: list[tuple[int, float]]) -> None:
        """Take in what each process reports: its signal, and its CPU-seconds."""
        if reports:
            self.cpu_seconds = sum(cpu for _, cpu in reports[1:])
            self.signal = next((signal for signal, _ in reports if signal), 0)

    def on_device(self, rollout: Rollout) -> Rollout:
        """What is counted, of all lanes, everywhere; whether observations are finite goes with it.

        The observation becomes a number for each process, ``[S, size]``, finite if all of its are.
        """
        finite = rollout.observation.flatten(1).isfinite().all(1, keepdim=True)
        each = [torch.cat(self.group.everyone(x.contiguous()), -1) for x in (
            torch.where(finite, 0.0, torch.nan), rollout.reward,
            *(getattr(rollout, name).to(torch.uint8) for name in _COUNTED),
        )]  # fmt: skip
        seen, reward, *flags = each
        ended, cut, valid = (x.bool() for x in flags)
        return rollout._replace(
            observation=seen, reward=reward, terminated=ended, truncated=cut, valid=valid
        )

    def whole(self, rollout: Rollout, seed: int) -> Rollout:
        """All of one seed, of all lanes, everywhere: to tell what made it fail."""
        cut = self.group.everyone(torch.tensor([int(rollout.final is not None)]))
        fields = rollout._asdict()
        if any(bool(x) for x in cut) and rollout.final is None:
            fields["final"] = torch.zeros_like(rollout.observation)
        found: dict[str, Any] = {}
        for name, x in fields.items():
            found[name] = None
            if x is not None:
                mine = x[seed : seed + 1].cpu().contiguous()
                parts = self.group.everyone(
                    mine.view(torch.uint8) if mine.dtype == torch.bool else mine
                )
                found[name] = torch.cat(parts, 1 if name == "last" else 2).to(mine.dtype)
        return Rollout(**found)

    # ------------------------------------------------------------------------------- state

    def joined(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """State of all lanes, at the leader; what is not of lanes must be alike in all processes.

        Raises:
            UsageError: where it is not.
        """
        from safetensors.torch import load, save

        digest = _digest(tensors)
        of_lanes = {k: x.cpu().contiguous() for k, x in tensors.items() if is_of_lanes(k)}
        parts = self.group.collected(digest + save(of_lanes))
        for rank, part in enumerate(parts):
            if part[: len(digest)] != digest:
                raise UsageError(
                    f"the parameters of rank {rank} are no longer those of rank 0: its machine "
                    "computes otherwise; use machines of one kind"
                )
        if not parts:
            return dict(tensors)
        seeds = len(tensors["episodes.count"])
        return {**tensors, **joined([load(part[len(digest) :]) for part in parts], seeds)}

    def own(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This process's share of the state of all lanes."""
        return own(tensors, len(tensors["episodes.count"]), self._mine)

    # ------------------------------------------------------------------------------- words

    def _said(self, mine: bytes, fault: str = "") -> list[bytes]:
        """What each process says; where one has a fault to tell, that ends all of them.

        Raises:
            AgreedError: with the first fault.
        """
        said = self.group.texts(b"!" + fault.encode() if fault else b"." + mine)
        faults = {rank: text[1:].decode() for rank, text in enumerate(said) if text[:1] == b"!"}
        for rank, text in faults.items():
            raise AgreedError(f"rank {rank}: {text}" if rank else text)
        return [text[1:] for text in said]

    def told(self, text: str) -> str:
        """What the leader says."""
        return self._said(text.encode())[0].decode()

    def flags(self, mine: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """One for each of all lanes, seed by seed."""
        each = len(self._mine)
        rows = [np.frombuffer(row, np.bool_) for row in self._said(mine.astype(np.bool_).tobytes())]
        return np.concatenate([row.reshape(-1, each) for row in rows], 1).reshape(-1)

    @contextmanager
    def alike(self) -> Iterator[None]:
        """What is refused in one process is refused in all.

        Raises:
            AgreedError: in all of them, by the words of the first.
        """
        try:
            yield
        except (AgreedError, LostError):
            raise
        except (UsageError, OSError, MemoryError) as error:
            self._said(b"", out_of_memory(error) if is_out_of_memory(error) else str(error))
            raise
        except BaseException as error:
            self.group.fail(f"{type(error).__name__}: {error}")
            raise
        self._said(b"")

    def check(self, facts: Mapping[str, Any]) -> None:
        """Refuse where processes differ.

        Raises:
            AgreedError: with the first fact that differs, and both of its values.
        """
        every = [json.loads(text) for text in self._said(json.dumps(facts).encode())]
        for rank, other in enumerate(every):
            for name, value in every[0].items():
                if other.get(name) != value:
                    raise AgreedError(
                        f"rank 0 has {name} {value}, and rank {rank} has {other.get(name)}: all "
                        "processes must be alike, with the same packages and devices"
                    )


def _digest(tensors: Mapping[str, Tensor]) -> bytes:
    """Of what all processes must have alike: not of lanes, and of episodes, which one counts."""
    sha = hashlib.sha256()
    for name, x in tensors.items():
        if not is_of_lanes(name) and not name.startswith("episodes."):
            sha.update(x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.digest()


def _packed(rollout: Rollout) -> Tensor:
    """Rewards and flags as bytes."""
    ended, cut, valid = (getattr(rollout, name).to(torch.uint8) for name in _COUNTED)
    flags = ended + 2 * cut + 4 * valid
    reward = rollout.reward.contiguous().view(-1).view(torch.uint8)
    return torch.cat([reward, flags.flatten()])


def _unpacked(rows: list[Tensor], like: Rollout) -> Rollout:
    """All lanes' rewards and flags, from those of each process."""
    shape, size = like.reward.shape, 4 * like.reward.numel()
    reward = torch.cat([x[:size].clone().view(torch.float32).view(shape) for x in rows], 2)
    flags = torch.cat([x[size:].view(shape) for x in rows], 2)
    ended, cut, valid = ((flags & bit) > 0 for bit in (1, 2, 4))
    return like._replace(reward=reward, terminated=ended, truncated=cut, valid=valid)
