"""What is masked does not matter: rows after an episode's end, rows of no weight, categories."""

from __future__ import annotations

import itertools

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import INF, MEMBERS, make, seeded

from rlgrad.estimators import build
from rlgrad.estimators.objective import values_at
from rlgrad.estimators.statistics import RunningMean, live_rows, per_seed_mean, row_share
from rlgrad.lanes import Lanes
from rlgrad.returns import return_to_go
from rlgrad.rollout import collect

torch.set_num_threads(1)
steady = settings(max_examples=40, deadline=None, derandomize=True, database=None)
few = settings(steady, max_examples=8)
SEEDS = st.integers(0, 10**6)
EXACT = {"rtol": 1e-12, "atol": 1e-12}


class Scripted(gymnasium.Env):
    """Each episode lasts ``length`` steps; the reward is the step's number."""

    observation_space = Box(-1, 1000, (1,), np.float32)
    action_space = Discrete(2)

    def __init__(self, length, dies, cut):
        self.length, self.flags, self.time = length, (dies, cut), 0

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.time += 1
        over = self.time == self.length
        seen = np.array([self.time], np.float32)
        return seen, float(self.time), *(over and flag for flag in self.flags), {}


ENDS = st.sampled_from([(True, False), (False, True), (True, True)])


@steady
@given(
    st.lists(st.tuples(st.integers(1, 7), ENDS, st.booleans()), min_size=4, max_size=4),
    st.integers(1, 9),
    st.sampled_from([AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED]),
)
def test_a_lane_counts_up_to_the_end_of_its_episode(scripts, steps, mode):
    makers = [lambda script=script: Scripted(script[0], *script[1]) for script in scripts]
    lanes = Lanes(SyncVectorEnv(makers, autoreset_mode=mode))
    alive = np.array([script[2] for script in scripts])
    gumbel = torch.zeros(2, steps, 2, 1, 2)
    rollout, _ = collect(
        lanes, lambda x: np.zeros((2, 2, 1, 2), np.float32), lanes.reset(range(4)), gumbel, alive
    )
    returns = return_to_go(rollout.reward, rollout.terminated | rollout.truncated, 1.0)
    for lane, (s, n) in enumerate(itertools.product(range(2), range(2))):
        counted = min(scripts[lane][0], steps) if alive[lane] else 0
        assert rollout.valid[s, :, n].tolist() == [t < counted for t in range(steps)]
        for t in range(counted):
            assert float(rollout.reward[s, t, n]) == t + 1
            assert float(returns[s, t, n]) == sum(range(t + 1, counted + 1))


def masked_rows(seed, share):
    """Numbers ``[S, T, N]``, those that count, and the same with anything in the others."""
    g = seeded(seed)
    x = torch.randn(2, 5, 3, generator=g, dtype=torch.float64)
    keep = torch.rand(2, 5, 3, generator=g) < share
    rubbish = torch.tensor([INF, -INF, float("nan"), 1e300], dtype=torch.float64)
    drawn = rubbish[torch.randint(4, x.shape, generator=g)]
    return x, keep, torch.where(keep, x, drawn)


@steady
@given(SEEDS, st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_means_are_loops_over_the_rows_that_count(seed, share):
    x, keep, dirty = masked_rows(seed, share)
    mean, part = per_seed_mean(dirty, keep, 2), row_share(x, keep, 2)
    for s in range(2):
        kept = x[s][keep[s]].tolist()
        assert float(mean[s]) == pytest.approx(sum(kept) / max(len(kept), 1), abs=1e-12)
        expected = keep[s].double() / max(len(kept), 1)
        torch.testing.assert_close(part[s], expected, **EXACT)
    last = [i for i in range(15) if keep.flatten(1)[:, i].any()]
    assert live_rows(keep.double(), 2) == (last[-1] + 1 if last else 0)


@steady
@given(SEEDS, st.sampled_from([0.0, 0.1, 0.5]), st.sampled_from([0.5, 0.9, 1.0]))
def test_a_running_mean_is_a_loop_over_the_rows_that_count(seed, share, decay):
    running = RunningMean(1, 2, decay).double()
    totals, weights = [0.0, 0.0], [0.0, 0.0]
    for turn in range(3):
        x, keep, dirty = masked_rows(seed + turn, share)
        running.update(dirty.unsqueeze(-1), keep)
        for s in range(2):
            kept = x[s][keep[s]].tolist()
            totals[s], weights[s] = decay * totals[s], decay * weights[s]
            if kept and decay == 1:  # the whole past evenly, row by row
                totals[s], weights[s] = totals[s] + sum(kept), weights[s] + len(kept)
            elif kept:  # a batch counts once, however many rows it has
                totals[s], weights[s] = totals[s] + sum(kept) / len(kept), weights[s] + 1
            expected = totals[s] / weights[s] if weights[s] else 0.0
            assert float(running.mean[s, 0]) == pytest.approx(expected, abs=1e-12)


def masked_logits(seed, factors, categories):
    """Logits ``[5, D, A]`` whose categories are masked at random, at least one is left."""
    g = seeded(seed)
    logits = torch.randn(5, factors, categories, generator=g, dtype=torch.float64)
    masked = torch.rand(5, factors, categories, generator=g) < 0.4
    kept = torch.randint(categories, (5, factors, 1), generator=g)
    return logits.masked_fill(masked.scatter(-1, kept, False), -INF)


def smooth(seed, factors, categories):
    """A smooth f of all factors jointly."""
    w = torch.randn(2, factors, categories, generator=seeded(seed), dtype=torch.float64)
    return lambda x: (x * w[0]).sum((-2, -1)) + (x * w[1]).sum((-2, -1)).tanh()


@pytest.mark.parametrize(("name", "chosen"), MEMBERS)
@few
@given(SEEDS, st.integers(1, 2), st.integers(2, 4))
def test_a_masked_category_is_never_chosen_and_its_noise_never_seen(
    name, chosen, seed, factors, categories
):
    categories = 2 if build(name).traits.binary else categories
    logits, f = masked_logits(seed, factors, categories), smooth(seed, factors, categories)
    estimator, dead = make(name, chosen, logits, f=f), logits.isneginf()
    context = torch.randn(5, 2, generator=seeded(seed), dtype=torch.float64)
    draw = estimator.sample(logits, generator=seeded(seed))
    assert not bool(dead.expand_as(draw.logits).gather(-1, draw.action.unsqueeze(-1)).any())
    value = values_at(estimator, draw, f)
    u = estimator.gradient(draw, value, context=context, f=f)
    assert bool(u.isfinite().all())
    assert not u[dead].any()
    other = draw._replace(
        gumbel=torch.where(dead, 7.0, draw.gumbel), second=torch.where(dead, 3.0, draw.second)
    )
    assert torch.equal(u, estimator.gradient(other, value, context=context, f=f))


UNTRAINED = [
    each for each in MEMBERS if not (t := build(each.values[0]).traits).trained and not t.binary
]


@pytest.mark.parametrize(("name", "chosen"), UNTRAINED)
@few
@given(SEEDS, st.integers(1, 2), st.integers(2, 4), st.data())
def test_a_masked_category_is_as_if_absent(name, chosen, seed, factors, categories, data):
    dead = data.draw(st.sets(st.integers(0, categories - 1), max_size=categories - 1))
    kept = sorted(set(range(categories)) - dead)
    whole = torch.randn(5, factors, categories, generator=seeded(seed), dtype=torch.float64)
    whole[..., sorted(dead)] = -INF
    f = smooth(seed, factors, categories)

    def fewer(x):
        full = x.new_zeros(*x.shape[:-1], categories)
        return f(full.index_copy(-1, torch.tensor(kept), x))

    one, other = (build(name, factors, n, **chosen).double() for n in (categories, len(kept)))
    draw = one.sample(whole, generator=seeded(seed))
    noise = draw.gumbel[..., kept], draw.second[..., kept]
    small = other.sample(whole[..., kept], noise_pair=noise)
    assert torch.equal(torch.tensor(kept)[small.action], draw.action)
    u = one.gradient(draw, values_at(one, draw, f), f=f)
    v = other.gradient(small, values_at(other, small, fewer), f=fewer)
    torch.testing.assert_close(u[..., kept], v, **EXACT)
