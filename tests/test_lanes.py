"""One meaning of a step in every autoreset mode, against a loop over single environments."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from rlgrad.errors import UsageError
from rlgrad.lanes import Lanes
from rlgrad.make import make_gymnasium
from rlgrad.rollout import Episodes, collect
from rlgrad.seeded import SeededEpisodes
from rlgrad.streams import Purpose, derive

torch.set_num_threads(1)
ACTIONS, START = 3, 5
# (length, how it ends) of a lane's episodes, one after another; cut = truncated.
SCRIPTS = [
    [(3, "dies"), (1, "cut"), (4, "both"), (2, "cut")],
    [(1, "dies"), (1, "dies"), (5, "cut"), (1, "both")],
    [(6, "cut"), (2, "dies")],
    [(2, "dies"), (7, "dies"), (3, "cut"), (1, "cut")],
]
LONGEST = 7
MODES = [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED]


class Counting(gymnasium.Env):
    """Observes (episode, step, last action as it came, lane); the reward is the step's number."""

    observation_space = Box(-1, 1000, (4,), np.float32)
    action_space = Discrete(ACTIONS, start=START)

    def __init__(self, lane):
        self.lane, self.episode, self.time = lane, -1, 0

    def _observe(self, action):
        return np.array([self.episode, self.time, action, self.lane], np.float32)

    def reset(self, *, seed=None, options=None):
        self.episode, self.time = self.episode + 1, 0
        return self._observe(-1), {}

    def step(self, action):
        length, end = SCRIPTS[self.lane][self.episode % len(SCRIPTS[self.lane])]
        assert self.time < length, "stepped beyond the end"
        assert self.action_space.contains(action)
        self.time += 1
        over = self.time == length
        flags = over and end != "cut", over and end != "dies"
        return self._observe(action), float(self.time), *flags, {}


class FullFinal(SyncVectorEnv):
    """As Atari's own vector environment: final_obs is one array for all lanes."""

    def step(self, actions):
        *rest, info = super().step(actions)
        if "final_obs" in info:
            full = np.full((self.num_envs, 4), -99.0, np.float32)
            for lane in np.flatnonzero(info["_final_obs"]):
                full[lane] = info["final_obs"][lane]
            info["final_obs"] = full
        return *rest, info


class Row(NamedTuple):
    observation: list
    action: int
    reward: float
    following: list
    terminated: bool
    truncated: bool


def act(observation):
    """A deterministic policy, counted from 0."""
    episode, time = int(observation[0]), int(observation[1])
    return (2 * time + episode) % ACTIONS


def single(lane, count):
    """The first ``count`` transitions of a lane by a plain loop, and the resets between them."""
    env, rows, resets = Counting(lane), [], []
    observation, _ = env.reset()
    for _ in range(count):
        action = act(observation)
        following, reward, terminated, truncated, _ = env.step(np.int64(action + START))
        flags = terminated, truncated
        rows.append(Row(observation.tolist(), action, reward, following.tolist(), *flags))
        observation = following
        if terminated or truncated:
            observation, _ = env.reset()
        resets.append(observation.tolist())
    return rows, resets


def make(mode, kind=SyncVectorEnv, scripts=(0, 1, 2, 3)):
    functions = [lambda lane=lane: Counting(lane) for lane in scripts]
    return Lanes(kind(functions, autoreset_mode=mode))


def expected_table(lane, mode, count):
    """(observation, final, reward, terminated, truncated, valid) of ``count`` steps."""
    rows, resets = single(lane, count)
    table = []
    for row, then in zip(rows, resets, strict=True):
        flags = row.terminated, row.truncated
        if mode is AutoresetMode.NEXT_STEP:
            table.append((row.following, row.following, row.reward, *flags, True))
            if any(flags):  # the next step is a mere reset
                table.append((then, then, 0.0, False, False, False))
        else:
            table.append((then, row.following, row.reward, *flags, True))
    return table[:count]


def check_tables(lanes, mode, steps=30):
    observation = lanes.reset(range(lanes.count))
    assert observation.tolist() == [[0, 0, -1, lane] for lane in range(lanes.count)]
    tables = [[] for _ in range(lanes.count)]
    over = [False] * lanes.count
    for _ in range(steps):
        # Where the row will be a reset the action is ignored: send one that would show.
        chosen = [2 if o else act(x) for x, o in zip(observation.tolist(), over, strict=True)]
        step = lanes.step(np.array(chosen)[:, None])
        observation = step.observation
        valid = [True] * lanes.count if step.valid is None else step.valid.tolist()
        columns = [x.tolist() for x in step[:5]]
        for lane, row in enumerate(zip(*columns, valid, strict=True)):
            tables[lane].append(row)
            over[lane] = mode is AutoresetMode.NEXT_STEP and (row[3] or row[4])
    lanes.close()
    for lane in range(len(tables)):
        assert tables[lane] == expected_table(lane, mode, steps), lane


@pytest.mark.parametrize("mode", MODES)
def test_steps_of_the_synchronous_vectoriser(mode):
    check_tables(make(mode), mode)


# Python 3.12 and later warn of fork beside threads; the workers only count.
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_steps_of_the_asynchronous_vectoriser(mode):
    check_tables(make(mode, AsyncVectorEnv), mode)


def test_steps_where_final_observations_are_one_array():
    check_tables(make(AutoresetMode.SAME_STEP, FullFinal), AutoresetMode.SAME_STEP)


def test_a_second_reset_forgets_which_episodes_had_ended():
    lanes = make(AutoresetMode.NEXT_STEP, scripts=[1])
    lanes.reset([0])
    assert bool(lanes.step(np.array([[0]])).terminated)
    lanes.reset([0])
    step = lanes.step(np.array([[1]]))
    assert step.valid is None or bool(step.valid.all())
    assert step.observation.tolist() == [[1, 1, 1 + START, 1]]


def policy(observation):
    episode, time = observation[..., 0].astype(int), observation[..., 1].astype(int)
    action = (2 * time + episode) % ACTIONS
    return np.eye(ACTIONS, dtype=np.float32)[action][..., None, :]


def silence(steps):
    """No noise: ``[S, T, N, D, A]`` for 2 seeds of 2 lanes."""
    return torch.zeros(2, steps, 2, 1, ACTIONS)


def transitions(rollout, s, n):
    """Valid rows of a lane; the next observation as the learner finds it."""
    after = torch.cat([rollout.observation[s, 1:, n], rollout.last[s, None, n]])
    if rollout.final is not None:
        after = torch.where(rollout.truncated[s, :, n, None], rollout.final[s, :, n], after)
    x = [rollout.observation[s, :, n], rollout.action[s, :, n, 0], rollout.reward[s, :, n], after]
    x += [rollout.terminated[s, :, n], rollout.truncated[s, :, n]]
    valid = rollout.valid[s, :, n].tolist()
    rows = zip(*(each.tolist() for each in x), strict=True)
    return [Row(*row) for row, counts in zip(rows, valid, strict=True) if counts]


def learnable(rows):
    """Rows without what follows a death: no value is asked of it."""
    return [row._replace(following=None) if row.terminated else row for row in rows]


@pytest.mark.parametrize("mode", MODES)
def test_collected_steps_are_the_same_transitions_in_every_mode(mode):
    lanes, borders = make(mode), [5, 1, 6, 13, 2]  # also in the middle of episodes
    observation = lanes.reset(range(4))
    found = [[] for _ in range(4)]
    for steps in borders:
        before = observation
        rollout, observation = collect(lanes, policy, observation, silence(steps))
        assert rollout.observation.shape == (2, steps, 2, 4)
        assert np.array_equal(rollout.observation[:, 0].flatten(0, 1), before)
        assert np.array_equal(rollout.last.flatten(0, 1), observation)
        assert (rollout.final is None) == (not bool(rollout.truncated.any()))
        if mode is not AutoresetMode.NEXT_STEP:
            assert bool(rollout.valid.all())
        for lane, (s, n) in enumerate(itertools.product(range(2), range(2))):
            found[lane] += transitions(rollout, s, n)
    for lane, rows in enumerate(found):
        expected, _ = single(lane, sum(borders))
        least = sum(borders) * 2 // 3 if mode is not AutoresetMode.NEXT_STEP else 13
        assert len(rows) >= least
        assert learnable(rows) == learnable(expected[: len(rows)])


@pytest.mark.parametrize("mode", MODES)
def test_collected_whole_episodes(mode):
    lanes = make(mode)
    alive = np.array([True, True, True, False])  # the last lane is of a frozen seed
    for static in (10, LONGEST):
        first = lanes.reset(range(4))
        rollout, _ = collect(lanes, policy, first, silence(static), alive)
        lengths = [SCRIPTS[lane][int(first[lane, 0]) % len(SCRIPTS[lane])][0] for lane in range(4)]
        longest = max(lengths[:3])  # it ends early: no longer than the counted lanes need
        for x in rollout:
            assert x is None or x is rollout.last or x.shape[:2] == (2, static)
            if x is not None and x is not rollout.last and x is not rollout.gumbel:
                assert not bool(x[:, longest:].any())  # padding
        for lane, (s, n) in enumerate(itertools.product(range(2), range(2))):
            length = lengths[lane] if lane < 3 else 0
            valid = rollout.valid[s, :, n].tolist()
            assert valid == [True] * length + [False] * (static - length)
            rows = transitions(rollout, s, n)
            episodes = {(row.observation[0], row.observation[3]) for row in rows}
            assert episodes == ({(float(first[lane, 0]), lane)} if length else set())
            assert [row.reward for row in rows] == list(range(1, length + 1))
            flags = [row.terminated or row.truncated for row in rows]
            assert flags == [False] * (length - 1) + [True] * bool(length)


@pytest.mark.parametrize("mode", MODES)
def test_episode_statistics_are_those_of_a_naive_loop(mode):
    lanes, window = make(mode), 4
    episodes = Episodes(2, 2, window)
    observation = lanes.reset(range(4))
    totals, finished = [(0.0, 0)] * 4, [[], []]
    assert np.isnan(episodes.means(0)).all()
    for steps in (4, 1, 1, 9, 20):
        rollout, observation = collect(lanes, policy, observation, silence(steps))
        for t, lane in itertools.product(range(steps), range(4)):
            at = lane // 2, t, lane % 2
            if bool(rollout.valid[at]):
                total, length = totals[lane]
                totals[lane] = total + float(rollout.reward[at]), length + 1
                if bool(rollout.terminated[at]) or bool(rollout.truncated[at]):
                    finished[lane // 2].append(totals[lane])
                    totals[lane] = 0.0, 0
        odd = torch.where(rollout.valid, rollout.reward, 99.0)  # what invalid rows say is ignored
        episodes.add(rollout._replace(reward=odd), whole=False)
        assert episodes.recent == [each[-window:] for each in finished]
        assert episodes.count == [len(each) for each in finished]
        for seed, each in enumerate(finished):
            if each:
                means = np.mean(np.array(each[-window:]), axis=0)
                assert episodes.means(seed) == pytest.approx(tuple(means))
    assert min(episodes.count) > 10
    scripted = [length for length, _ in SCRIPTS[0]] + [length for length, _ in SCRIPTS[1]]
    assert {length for _, length in finished[0]} <= set(scripted)


def test_whole_episodes_are_counted_without_what_was_left_unfinished():
    lanes, episodes = make(AutoresetMode.SAME_STEP), Episodes(2, 2)
    for steps in (2, 9):  # after two steps lanes 0 and 2 are inside an episode
        alive = None if steps == 2 else np.array([True, False, True, False])
        rollout, _ = collect(lanes, policy, lanes.reset(range(4)), silence(steps), alive)
        episodes.add(rollout, whole=True)
    assert episodes.recent[0][-1] == (1.0, 1)  # lane 0's second episode alone
    assert episodes.recent[1][-1] == (3.0, 2)
    assert episodes.count == [3, 2]


def test_spaces_are_refused_that_only_make_can_flatten():
    discrete = gymnasium.make_vec("FrozenLake-v1", num_envs=1)
    with pytest.raises(UsageError, match=r"expected Box and Discrete, .*: use rlgrad\.make"):
        Lanes(discrete)


class Recorder(Counting):
    """Counting, with the seeds of its resets."""

    def __init__(self):
        super().__init__(0)
        self.seeds = []

    def reset(self, *, seed=None, options=None):
        self.seeds.append(seed)
        return super().reset(seed=seed)


def test_every_episode_has_a_seed_of_its_own_and_is_restored_by_its_number():
    env = SeededEpisodes(Recorder())
    root = 2**62 + 17
    env.reset(seed=root)
    for _ in range(50):
        env.reset()
    seeds = env.unwrapped.seeds
    assert seeds == [derive(root, Purpose.RESET, i) & 0x7FFFFFFF for i in range(51)]
    assert len(set(seeds)) == 51
    env.reset(seed=root)
    assert seeds[-1] == seeds[0]
    again = SeededEpisodes(Recorder())
    again.reset(seed=root)
    again.episode = 30
    again.reset()
    assert again.unwrapped.seeds[-1] == seeds[30]
    assert again.episode == 31
    unseeded = SeededEpisodes(Recorder())
    unseeded.reset()
    assert unseeded.unwrapped.seeds == [None]


@pytest.mark.parametrize("mode", MODES)
def test_gymnasiums_lanes_depend_on_their_seed_alone(mode):
    """Same lane seed, same episodes: whatever the mode, the number of lanes and their order."""

    def starts(seeds):
        lanes = Lanes(make_gymnasium("CartPole-v1", len(seeds), autoreset=mode))
        x, found = lanes.reset(seeds), [[] for _ in seeds]
        fresh = [True] * len(seeds)
        for _ in range(80):
            for lane in np.flatnonzero(fresh):
                found[lane].append(tuple(x[lane].tolist()))
            step = lanes.step(np.ones((len(seeds), 1), dtype=np.int64))
            done = (step.terminated | step.truncated).tolist()
            if mode is AutoresetMode.NEXT_STEP:
                fresh = [False] * len(seeds) if step.valid is None else (~step.valid).tolist()
            else:
                fresh = done
            x = step.observation
        return found

    many = starts([11, 12, 2**61 + 3, 13])
    assert len({start for lane in many for start in lane}) == sum(map(len, many))
    assert min(map(len, many)) >= 5
    assert starts([13, 2**61 + 3]) == [many[3], many[2]]
