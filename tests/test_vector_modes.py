"""One agent through every vectoriser and autoreset mode: the same bits, or the same statistics."""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from rlgrad import preparing
from rlgrad.cards import resolve
from rlgrad.options import Options
from rlgrad.seeded import SeededEpisodes
from rlgrad.trainer import Trainer

torch.set_num_threads(1)
NEXT, SAME, OFF = AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED


def train(monkeypatch, agent, kind, mode, seeds, steps, **flags):
    """A trainer at its end, on CartPole by a vectoriser in a mode."""

    def vector(card, num_envs, max_episode_steps=0, device="cpu", vec="auto", infos=None):
        limit = {"max_episode_steps": max_episode_steps} if max_episode_steps else {}
        lane = [lambda: SeededEpisodes(gymnasium.make("CartPole-v1", **limit))]
        return kind(lane * num_envs, autoreset_mode=mode)

    monkeypatch.setattr(preparing, "make_training", vector)
    monkeypatch.setattr(preparing, "choose_vec", lambda *_: ("sync", ""))
    resolved = resolve("CartPole-v1", agent, None, {"total_timesteps": steps, **flags})
    it = Trainer(resolved, seeds, Options(device="cpu"))
    while any(it.active):
        it.step()
    it.close()
    return it


def ending(it):
    """All that training left: parameters and moments, and the episodes' statistics."""
    outcomes = [(o.steps, o.episodes, o.mean_return, o.mean_length) for o in it.outcomes]
    return list(it.learner.state_dict().values()), outcomes


# Whole episodes end with their lane's episode, so there a reset row of NEXT_STEP is never reached.
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("agent", "others"),
    [
        ("actor-critic", [(SyncVectorEnv, OFF), (AsyncVectorEnv, SAME), (AsyncVectorEnv, OFF)]),
        ("reinforce", [(SyncVectorEnv, NEXT), (SyncVectorEnv, OFF), (AsyncVectorEnv, NEXT)]),
    ],
)
def test_the_same_bits_where_rows_are_the_same(monkeypatch, agent, others):
    flags = {"num_envs": 2, "max_episode_steps": 30}
    flags |= {} if agent == "reinforce" else {"num_steps": 16}
    state, outcomes = ending(train(monkeypatch, agent, SyncVectorEnv, SAME, [1000], 600, **flags))
    assert outcomes[0][1] > 10
    for kind, mode in others:
        other = ending(train(monkeypatch, agent, kind, mode, [1000], 600, **flags))
        assert other[1] == outcomes
        assert all(map(torch.equal, other[0], state)), (kind, mode)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_asynchronous_lanes_change_no_bit_where_reset_rows_are_masked(monkeypatch):
    flags = {"num_envs": 2, "num_steps": 16}
    (x, a), (y, b) = (
        ending(train(monkeypatch, "actor-critic", kind, NEXT, [1000], 400, **flags))
        for kind in (SyncVectorEnv, AsyncVectorEnv)
    )
    assert a == b
    assert all(map(torch.equal, x, y))


@pytest.mark.slow
def test_the_same_statistics_where_a_mode_wastes_rows(monkeypatch):
    """Mean return of the last 100 episodes, mean over 20 seeds, NEXT_STEP against SAME_STEP.

    Seeds 1000-1019 and 1020-1039. |t| < 8.5 with 38 degrees of freedom: P < 3e-10 by luck.
    Masked rows that counted would show: about one row in twenty-five is a mere reset at first.
    """
    found = []
    for mode, first in ((SAME, 1000), (NEXT, 1020)):
        seeds = list(range(first, first + 20))
        it = train(monkeypatch, "actor-critic", SyncVectorEnv, mode, seeds, 4000, num_envs=4)
        assert all(o.status == "finished" and o.steps >= 4000 for o in it.outcomes)
        # Valid transitions alone are counted: episodes' lengths are their returns in CartPole.
        assert all(o.mean_return == o.mean_length for o in it.outcomes)
        found.append(np.array([o.mean_return for o in it.outcomes]))
    same, following = found
    assert min(same.mean(), following.mean()) > 30  # both have learned; 22 is a random agent's
    error = math.sqrt((same.var(ddof=1) + following.var(ddof=1)) / 20)
    assert abs(same.mean() - following.mean()) / error < 8.5
