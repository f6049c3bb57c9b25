"""What can be resolved is written as a card that reads back as the same; else it is refused."""

from __future__ import annotations

import types
import typing
from contextlib import suppress
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shipped import OWN, PEERS

from rlgrad import cards, store
from rlgrad.card_files import find
from rlgrad.config import Config
from rlgrad.creating import card_text, create
from rlgrad.errors import UsageError
from rlgrad.estimators import ESTIMATORS
from rlgrad.options import Options
from rlgrad.reading import read_toml

steady = settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def values(hint):
    """Any value of a field's type, in range or not."""
    inner = typing.get_args(hint)
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return values(inner[0])
    if typing.get_origin(hint) is Literal:
        return st.sampled_from(inner)
    if typing.get_origin(hint) is tuple:
        return st.lists(values(inner[0]), max_size=3).map(tuple)
    numbers = {
        bool: st.booleans(),
        str: st.sampled_from(list(ESTIMATORS)),
        int: st.integers(0, 8) | st.integers(-1, 2**70),
        float: st.floats(0, 1) | st.floats(),
    }
    return numbers[hint]


HINTS = typing.get_type_hints(Config)
FLAGS = st.fixed_dictionaries({}, optional={key: values(hint) for key, hint in HINTS.items()})
PLAIN = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(), each, max_size=3),
    max_leaves=6,
)
KWARGS = st.dictionaries(st.text(), PLAIN, max_size=3)
ENVS = [*sorted(find("envs")), "own/Without-v0"]


def round_trip(resolved, seeds, folder):
    """Write a run's card, read it, and write what was read once more."""
    run = create(resolved, seeds, Options(log_dir=str(folder)))
    read = store.read_run(run.path)
    assert read == run
    assert read_toml(run.path / "card.toml")["seeds"] == list(seeds)
    again = cards.Resolved(resolved.env, read.agent, read.config, (), read.peer, vec=read.vec)
    assert card_text(again, read.seeds) == card_text(resolved, seeds)
    return read


@steady
@given(
    flags=FLAGS,
    kwargs=KWARGS,
    agent=st.sampled_from(OWN),
    env=st.sampled_from(ENVS),
    modules=st.lists(st.text(), max_size=2),
    seeds=st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=4, unique=True),
)
def test_a_resolved_card_reads_back(tmp_path, flags, kwargs, agent, env, modules, seeds):
    fitting = {}
    for key, value in flags.items():  # what is refused alone is left out
        with suppress(UsageError):
            cards.resolve(env, agent, None, {key: value})
            fitting[key] = value
    resolved = cards.resolve(env, agent, None, fitting, kwargs, modules)
    read = round_trip(resolved, seeds, tmp_path)
    assert read.env_kwargs == resolved.env.kwargs
    for key, value in fitting.items():
        assert getattr(read.config, key) == value


@steady
@given(
    arguments=st.dictionaries(
        st.sampled_from(["n_steps", "learning_rate", "ent_coef", "policy_kwargs"]),
        st.integers(1, 64) | st.sampled_from(["lin_0.001", "0.5"]) | st.floats(0, 1),
    ),
    total=st.integers(1, 2**40),
    agent=st.sampled_from(PEERS),
    env=st.sampled_from(ENVS),
)
def test_a_peers_resolved_card_reads_back(tmp_path, arguments, total, agent, env):
    try:
        resolved = cards.resolve(
            env, agent, None, {"total_timesteps": total}, peer_arguments=arguments
        )
    except UsageError:
        return
    read = round_trip(resolved, [0], tmp_path)
    assert read.config.total_timesteps == total
    for key, value in arguments.items():
        assert read.peer.arguments[key] == value


@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize("agent", [*OWN, *PEERS])
def test_every_shipped_pair_reads_back(agent, env, tmp_path):
    resolved = cards.resolve(env, agent)
    read = round_trip(resolved, [3, 1], tmp_path)
    assert (read.env_id, read.agent, read.seeds) == (env, agent, (3, 1))
