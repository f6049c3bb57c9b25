"""How a process becomes one of several, and what all of them must have in common.

A process alone imports nothing of what sends messages, which not every build of torch has.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from rlgrad.cards import Resolved
from rlgrad.engine import Engine
from rlgrad.errors import UsageError
from rlgrad.options import Options
from rlgrad.peer_cards import tables
from rlgrad.ranks.launch import Launch, launched
from rlgrad.ranks.one import ONE, Ranks
from rlgrad.signals import Signals
from rlgrad.store import Run
from rlgrad.trainer import Trainer
from rlgrad.versions import versions

if TYPE_CHECKING:
    from rlgrad.ranks.leading import Following

_OF_A_PROCESS = ("quiet", "log_dir")


def join(options: Options) -> Ranks:
    """This process's place among those that torchrun started; alone without torchrun.

    Raises:
        UsageError: where the others cannot be reached.
    """
    launch = launched()
    if launch is None:
        return ONE
    from rlgrad.ranks.group import Group
    from rlgrad.ranks.many import Many

    torch.set_num_threads(1)
    _take_device(launch, options)
    return Many(Group(launch, float(options.rank_timeout)))


def _take_device(launch: Launch, options: Options) -> None:
    """The GPU of the process's number on its machine, where GPUs may be used."""
    if options.device == "cpu" or not torch.cuda.is_available():
        return
    found = torch.cuda.device_count()
    if launch.local_size > found:
        raise UsageError(
            f"{launch.local_size} processes on a machine with {found} GPUs; start one for each "
            f"GPU (--nproc-per-node={found}), or train on the CPU (--device cpu)"
        )
    torch.cuda.set_device(launch.local_rank)


def refuse(resolved: Resolved, options: Options, ranks: Ranks) -> None:
    """Refuse what several processes cannot do.

    Raises:
        UsageError: with what to do instead.
    """
    if ranks.size == 1:
        return
    if resolved.peer is not None:
        raise UsageError(
            f"{resolved.agent} is a peer, which Stable-Baselines3 trains in one process; train it "
            "without torchrun"
        )
    if options.log_info:
        raise UsageError(
            "got --log-info (or a callback that asks for infos) with several processes, which do "
            "not exchange infos; leave it out, or train without torchrun"
        )


def check_alike(trainer: Trainer, resolved: Resolved, options: Options) -> None:
    """Refuse where processes differ in what they must have in common.

    Raises:
        AgreedError: naming what differs, and both values.
    """
    if trainer.ranks.size > 1:
        trainer.ranks.check(_facts(trainer, resolved, options))


def _facts(trainer: Trainer, resolved: Resolved, options: Options) -> dict[str, Any]:
    """What must be alike in all processes."""
    chosen = {k: v for k, v in asdict(options).items() if k not in _OF_A_PROCESS}
    said = json.dumps([tables(resolved.config, resolved.peer), trainer.seeds, resolved.env.id,
                       resolved.env.kwargs, chosen], sort_keys=True, default=str)  # fmt: skip
    sha = hashlib.sha256()
    for x in trainer.learner.parameters():
        sha.update(x.detach().cpu().numpy().tobytes())
    device = trainer.device.type
    card = (
        torch.cuda.get_device_name()
        if device == "cuda"
        else torch.backends.cpu.get_cpu_capability()
    )
    return {
        **versions(),
        "device": f"{device} ({card})",
        "arguments": hashlib.sha256(said.encode()).hexdigest()[:12],
        "initial parameters": sha.hexdigest()[:12],
    }


def led(engine: Engine, ranks: Ranks) -> Engine:
    """The engine of the leader's session, which takes other processes along."""
    if ranks.size == 1:
        return engine
    from rlgrad.ranks.leading import Leading
    from rlgrad.ranks.many import Many

    assert isinstance(ranks, Many)
    return Leading(engine, ranks)


def listening(engine: Engine, ranks: Ranks, signals: Signals) -> Callable[[], None]:
    """Let a leader's engine hear its session's signals, and those pass on what others got.

    Returns:
        What tells those who wait, in long evaluations, that there is something to wait for.
    """
    if ranks.size == 1:
        return lambda: None
    from rlgrad.ranks.leading import Leading

    assert isinstance(engine, Leading)
    engine.signals = signals
    return engine.beat


def follow(engine: Engine, run: Run, ranks: Ranks, options: Options) -> Following:
    """The session of a process that does not lead."""
    from rlgrad.ranks.leading import Following
    from rlgrad.ranks.many import Many

    assert isinstance(ranks, Many)
    return Following(engine, run, ranks, options.points(run.config.total_timesteps))
