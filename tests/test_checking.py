"""``check_vector_env``: sound environments pass, and every fault in a table is found and named."""

from __future__ import annotations

import functools
import importlib.util

import gymnasium
import numpy as np
import pytest
import torch
from faulty import NEXT, OFF, SAME, NestedWalk, SingleWalk, Walk
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

import rlgrad
from rlgrad.make import make_gymnasium
from rlgrad.simulators import SIMULATORS

torch.set_num_threads(1)
STEPS = 40
MODES = [SAME, NEXT, OFF]
# What is broken: (in which modes, which check must say so, words of its message).
FAULTS = {
    "no lanes": (MODES, "interface", "num_envs is 0"),
    "no autoreset mode": ([NEXT], "interface", r"metadata\['autoreset_mode'\] is None"),
    "action space not batched": (MODES, "interface", "action_space is not single_action_space"),
    "observation space not batched": (MODES, "interface", "observation_space is not single_obs"),
    "reset without infos": (MODES, "interface", "reset returned ndarray; expected"),
    "four parts": (MODES, "interface", "step returned a tuple of 4; expected"),
    "raises": (MODES, "raised", "RuntimeError: the motor is stuck"),
    "observation of another dtype": (MODES, "space", "is float64 .3, 2.; expected float32"),
    "observation of another shape": (MODES, "space", r"is float32 .3, 1.; expected float32 .3, 2"),
    "observation is a list": (MODES, "space", "is a list, not an array"),
    "observation out of range": (MODES, "space", "a value outside its space: at step 19"),
    "observation is NaN": (MODES, "space", "has NaN: at step 19"),
    "reward is a column": (MODES, "reward", r"reward is \[3, 1\]; expected an array \[3\]"),
    "reward is a list": (MODES, "reward", r"reward is list; expected an array \[3\]"),
    "reward is NaN": (MODES, "reward", "infinite or NaN: at step 19, lane 2"),
    "reward is text": (MODES, "reward", "expected numbers"),
    "flags are numbers": (MODES, "flags", "terminated is float32; expected bool"),
    "one flag for all": (MODES, "flags", r"truncated is bool; expected an array \[3\]"),
    "info is a list": (MODES, "info", "info is a list; expected a dict"),
    "info of one lane": (MODES, "info", r"info\['extra'\] is \[1\]; expected an array with 3"),
    "info is a number": (MODES, "info", r"info\['extra'\] is float; expected an array with 3"),
    "info with a number as key": (MODES, "info", "info has the key 7; expected a str"),
    "info mask of numbers": (MODES, "info", r"info\['_extra'\] is no mask"),
    "tensors elsewhere": (MODES, "device", "is on cpu; expected cuda"),
    "final of another dtype": ([SAME], "space", "of a lane is float64 .2., not in its space"),
    "final out of range": ([SAME], "space", "of a lane is float32 .2., not in its space"),
    "only the first seed counts": (MODES, "seed", "the same seed and actions gave another play"),
    "seed ignored": (MODES, "seed", "the same seed and actions gave another play"),
    "seed is a constant": (MODES, "seed", "other seeds give the very same play"),
    "one stream for all lanes": (MODES, "seed", "lanes share one stream.*lanes 0 and 1"),
    "observation in one buffer": (MODES, "buffer", "overwritten by a later call"),
    "observation is the state": (MODES, "buffer", "overwritten by a later call"),
    "observation is read back": (MODES, "buffer", "writing into what was returned changes"),
    "reward in one buffer": (MODES, "buffer", "overwritten by a later call"),
    "final in one buffer": ([SAME], "buffer", "overwritten by a later call"),
    "info shares memory": (MODES, "buffer", "observation and info share memory"),
    "flags share memory": ([SAME, NEXT], "buffer", "terminated and truncated share memory"),
    "writes into actions": (MODES, "buffer", "writes into the actions"),
    "reward in the reset row": ([NEXT], "autoreset", "mere reset, but has a reward or a flag"),
    "action in the reset row counts": ([NEXT], "autoreset", "row after an end is not ignored"),
    "last observation lost": ([NEXT], "autoreset", "every last observation equals"),
    "final of no lane": ([SAME], "autoreset", "without its last observation in final_obs"),
    "mask of all lanes": ([SAME], "autoreset", "does not mark the lanes"),
    "final is the new first": ([SAME], "autoreset", "every last observation equals"),
    "NEXT_STEP called SAME_STEP": ([NEXT], "autoreset", "without its last observation in final"),
    "SAME_STEP called NEXT_STEP": ([SAME], "autoreset", "mere reset, but has a reward or a flag"),
    "DISABLED called SAME_STEP": ([OFF], "raised", "not reset"),
    "DISABLED called NEXT_STEP": ([OFF], "raised", "not reset"),
    "no reset at all": ([SAME], "autoreset", "every last observation equals"),
    "final and first swapped": ([SAME], "autoreset", "swapped, or no reset"),
    "mask ignored": ([OFF], "autoreset", "changed the observations of other lanes"),
    "mask resets nothing": ([OFF], "autoreset", "every last observation equals"),
    "mask draws for all lanes": ([OFF], "autoreset", "of one lane disturbs the others"),
    "late limit": (MODES, "limit", "went on beyond the limit of 7 steps"),
    "never truncated": (MODES, "limit", "went on beyond the limit of 7 steps"),
    "reset row counts for the limit": ([NEXT], "limit", "truncated before the limit of 7 steps"),
    "never starts anew": ([NEXT], "limit", "truncated before the limit of 7 steps"),
    "early limit": (MODES, "limit", "truncated before the limit of 7 steps"),
    "limit as an end": (MODES, "limit", "ended at the limit of 7 steps is not truncated"),
    "truncated at once": (MODES, "limit", "truncated before the limit of 7 steps"),
    "clock not reset": ([SAME], "limit", "truncated before the limit of 7 steps"),
    "clock not reset at an end": ([SAME], "limit", "truncated before the limit of 7 steps"),
}
# What only a comparison with the single environment can find.
UNSEEN = {
    "last observation is one step old": MODES,
    "last reward lost": MODES,
    "action of another lane": MODES,
    "SAME_STEP called DISABLED": [SAME],
}
CASES = [(fault, mode) for fault, (modes, _, _) in FAULTS.items() for mode in modes]


def report_of(env, **options):
    """The report, whether or not it holds faults; closes the environment."""
    try:
        return rlgrad.check_vector_env(env, **{"steps": STEPS, **options})
    except rlgrad.VectorEnvError as error:
        return error.report
    finally:
        env.close()


def limited(env_id, limit=9):
    """A function that makes one environment with a small time limit."""
    return functools.partial(gymnasium.make, env_id, max_episode_steps=limit)


@pytest.mark.parametrize(("fault", "mode"), CASES, ids=lambda x: getattr(x, "name", x))
def test_every_fault_is_found(fault, mode):
    _, check, words = FAULTS[fault]
    with pytest.raises(rlgrad.VectorEnvError, match=words) as caught:
        rlgrad.check_vector_env(Walk(mode, fault), steps=STEPS)
    faults = caught.value.report.faults
    assert check in {each.check for each in faults}, faults
    assert len(faults) <= 4  # one fault is not told in a dozen ways
    assert not caught.value.report.ok


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_found_where_nothing_is_broken(mode):
    report = report_of(Walk(mode), single=SingleWalk)
    assert report.faults == ()
    assert report.notes == ()
    assert report.ok
    assert report.episodes > 10
    assert str(report) == f"Walk: no fault in 40 steps, {report.episodes} episodes ended"


@pytest.mark.parametrize("mode", MODES)
def test_lanes_are_compared_with_one_environment_alone(mode):
    report = report_of(Walk(mode), single=lambda: SingleWalk(bias=0.5))
    assert [each.check for each in report.faults] == ["reference"]
    assert "lane 0: reward of step 0, 3 times" in report.faults[0].text


@pytest.mark.parametrize("fault", UNSEEN)
def test_what_only_one_environment_alone_can_show(fault):
    for mode in UNSEEN[fault]:
        assert report_of(Walk(mode, fault), single=SingleWalk).faults[-1].check == "reference"


def test_what_cannot_be_judged_is_said():
    long = report_of(Walk(limit=15), steps=3)
    assert long.ok
    assert [note.split(";")[0] for note in long.notes] == [
        "no episode reached the limit of 15 steps",
        "no episode ended within 3 steps, so no autoreset was seen",
    ]
    fixed = report_of(gymnasium.make_vec("rlgrad/ValueProbe-v0", num_envs=2))
    assert "seeds change nothing" in str(fixed)
    assert report_of(Walk(fault="early limit"), max_episode_steps=0).ok


def test_what_is_no_vector_environment_is_refused():
    with pytest.raises(rlgrad.UsageError, match=r"got a CartPoleEnv; expected a gymnasium\.vector"):
        rlgrad.check_vector_env(gymnasium.make("CartPole-v1").unwrapped)
    with pytest.raises(rlgrad.UsageError, match="got steps 0; expected at least 1"):
        rlgrad.check_vector_env(Walk(), steps=0)


@pytest.mark.parametrize("fault", ["", "raises", "reward is NaN", "observation is the state"])
def test_the_environment_is_left_freshly_reset(fault):
    env = Walk(fault=fault)
    report_of(env, seed=3)
    assert env.clock.tolist() == [0, 0, 0]
    expected = Walk(fault=fault).reset(seed=3)[0]
    np.testing.assert_array_equal(env.observe(), expected)


@pytest.mark.parametrize("name", SIMULATORS)
def test_our_simulators(name):
    report = report_of(gymnasium.make_vec(name, num_envs=3, max_episode_steps=7))
    assert report.faults == ()
    assert report.episodes >= 3 * (STEPS // 7)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", SIMULATORS)
def test_our_simulators_on_a_gpu(name):
    make = {"num_envs": 3, "max_episode_steps": 7, "device": "cuda"}
    assert report_of(gymnasium.make_vec(name, **make)).faults == ()


@pytest.mark.parametrize("env_id", ["CartPole-v1", "FrozenLake-v1", "Acrobot-v1"])
@pytest.mark.parametrize("mode", MODES)
def test_gymnasiums_synchronous_vectoriser(env_id, mode):
    make = limited(env_id)
    report = report_of(SyncVectorEnv([make] * 3, autoreset_mode=mode), single=make)
    assert (report.faults, report.notes) == ((), ())


@pytest.mark.parametrize("mode", MODES)
def test_nested_observations_and_infos(mode):
    """Last observations of a Dict lie nested in the infos."""
    env = SyncVectorEnv([NestedWalk] * 3, autoreset_mode=mode)
    report = report_of(env, single=NestedWalk, max_episode_steps=7)
    assert (report.faults, report.notes) == ((), ())
    assert report.episodes > 10


# Python 3.12 and later warn of fork beside threads.
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("mode", MODES)
def test_gymnasiums_asynchronous_vectoriser(mode):
    make = limited("CartPole-v1")
    report = report_of(AsyncVectorEnv([make] * 2, autoreset_mode=mode), single=make)
    assert (report.faults, report.notes) == ((), ())


@pytest.mark.parametrize("mode", MODES)
def test_what_agents_train_on_without_a_simulator(mode):
    """Episodes with seeds of their own, observations flattened."""
    report = report_of(make_gymnasium("FrozenLake-v1", 3, max_episode_steps=9, autoreset=mode))
    assert (report.faults, report.notes) == ((), ())


@pytest.mark.parametrize("limit", [9, 500])
def test_gymnasiums_cartpole_class(limit):
    kind = "vector_entry_point"
    env = gymnasium.make_vec(
        "CartPole-v1", num_envs=3, vectorization_mode=kind, max_episode_steps=limit
    )
    assert report_of(env).faults == ()


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("ale_py"), reason="needs ale-py")
@pytest.mark.parametrize("mode", [NEXT, SAME])
def test_ataris_class(mode):
    import ale_py  # noqa: F401

    env = gymnasium.make_vec(
        "ALE/Pong-v5",
        num_envs=2,
        vectorization_mode="vector_entry_point",
        autoreset_mode=mode,
        max_num_frames_per_episode=60,
        noop_max=1,
        num_threads=1,
    )
    report = report_of(env, steps=30)
    assert report.faults == ()
    assert report.episodes >= 2
    assert ("without _final_obs" in str(report)) == (mode is SAME)


@pytest.mark.skipif(not importlib.util.find_spec("envpool"), reason="needs envpool")
@pytest.mark.filterwarnings("ignore:EnvPool seeds are fixed", "ignore:.*precision lowered")
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Acrobot-v1", "MountainCar-v0"])
def test_envpool_breaks_two_promises(env_id):
    """Its spaces are those of one lane, and reset ignores seeds; its rows are sound."""
    import envpool

    make = {"env_type": "gymnasium", "num_envs": 3, "num_threads": 1, "max_episode_steps": 9}
    report = report_of(envpool.make(env_id, **make))
    assert [each.check for each in report.faults] == ["interface", "interface", "seed"]
    assert report.episodes >= 9


def test_modes_are_all_of_gymnasiums():
    assert set(MODES) == set(AutoresetMode)
