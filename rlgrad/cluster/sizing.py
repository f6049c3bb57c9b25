"""What a task of a comparison needs of a node, and where its run is kept."""

from __future__ import annotations

from pathlib import Path

from gymnasium.spaces import flatdim

from rlgrad.actions import Actions
from rlgrad.cards import Resolved
from rlgrad.cluster.crew import Place
from rlgrad.comparison import plan
from rlgrad.comparison.plan import Request, Task, stepping
from rlgrad.images import image_of
from rlgrad.make import is_simulated, make_one, time_limit
from rlgrad.naming import safe_name
from rlgrad.preflight import Work, weights


def place_of_run(request: Request, task: Task, gpus: int) -> Place:
    """For a block of seeds.

    Args:
        request: of the comparison.
        task: the block.
        gpus: that the cluster has; 0: none is asked for.
    """
    resolved = plan.resolve(request, task.env, task.agent)
    parent = Path(request.log_dir) / safe_name(resolved.env.id) / safe_name(resolved.agent)
    peer = resolved.peer is not None
    wants = gpus > 0 and not peer and _faster_there(resolved, len(task.seeds))
    return Place(None, str(parent), 3, peer, int(wants))


def _faster_there(resolved: Resolved, seeds: int) -> bool:
    """Whether ``--device auto`` would choose a GPU; see ``preflight.choose_device``."""
    c, card = resolved.config, resolved.env
    one = make_one(card.id, card.kwargs, c.max_episode_steps)
    try:
        image = image_of(one.observation_space, c.network)
        sizes = flatdim(one.observation_space), Actions(one.action_space).outputs
    finally:
        one.close()
    whole = c.signal == "return-to-go"
    steps = (time_limit(card.id, c.max_episode_steps) if whole else 0) or c.num_steps
    iterations = -(-c.total_timesteps // (c.num_envs * steps))
    networks, simulated = weights(c, *sizes, image), is_simulated(card, stepping(resolved))
    cpu, gpu = Work(iterations, steps, seeds * c.num_envs, networks, simulated, whole).seconds()
    return gpu < cpu
