"""Credited values against closed forms and against double loops written from the definitions."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlgrad.returns import gae, n_step, return_to_go, temporal_differences

torch.set_num_threads(1)
S, T, N = 2, 9, 3
EXACT = {"rtol": 1e-12, "atol": 1e-12}
GAMMAS, LAMBDAS = st.sampled_from([0.0, 0.5, 0.9, 1.0]), st.sampled_from([0.0, 0.3, 0.95, 1.0])


def rows(seed, ends=0.25, shape=(S, T, N)):
    """(reward, value, next_value, terminated, truncated): next values are chained to values.

    Some episodes end by both flags at once. After a truncation next_value is the value of the true
    last observation, a number of its own.
    """
    g = torch.Generator().manual_seed(seed)
    reward = torch.randn(shape, generator=g, dtype=torch.float64)
    values = torch.randn(shape[0], shape[1] + 1, shape[2], generator=g, dtype=torch.float64)
    last = torch.randn(shape, generator=g, dtype=torch.float64)
    terminated = torch.rand(shape, generator=g) < ends
    truncated = torch.rand(shape, generator=g) < ends
    following = torch.where(truncated, last, values[:, 1:])
    return reward, values[:, :-1], following, terminated, truncated


def lanes(*tensors):
    """One tuple of lists over time for every seed and lane, with the place of its result."""
    seeds, _, width = tensors[0].shape
    for s, n in itertools.product(range(seeds), range(width)):
        yield (s, n), [x[s, :, n].tolist() for x in tensors]


def naive_return(reward, done, gamma):
    """sum_k gamma^k r_{t+k} up to and including the step at which the episode ends."""
    out = []
    for t in range(len(reward)):
        total = 0.0
        for k in range(t, len(reward)):
            total += gamma ** (k - t) * reward[k]
            if done[k]:
                break
        out.append(total)
    return out


def naive_n_step(reward, value, following, terminated, truncated, gamma, n):
    """r_t + .. + gamma^(m-1) r_{t+m-1} + gamma^m V - V(t), m <= n steps within the episode."""
    out = []
    for t in range(len(reward)):
        total = 0.0
        for m in range(1, n + 1):
            k = t + m - 1
            total += gamma ** (m - 1) * reward[k]
            if terminated[k] or truncated[k] or m == n or k == len(reward) - 1:
                total += 0.0 if terminated[k] else gamma**m * following[k]
                break
        out.append(total - value[t])
    return out


def naive_gae(reward, value, following, terminated, truncated, gamma, lam):
    """(1 - lambda) sum_n lambda^(n-1) A^(n), where the last A takes all weight that is left."""
    out = []
    for t in range(len(reward)):
        total, weight = 0.0, 1.0
        for n in range(1, len(reward) - t + 1):
            k = t + n - 1
            advantage = naive_n_step(
                *(x[t:] for x in (reward, value, following, terminated, truncated)), gamma, n
            )[0]
            if terminated[k] or truncated[k] or k == len(reward) - 1:
                total += weight * advantage
                break
            total += weight * (1 - lam) * advantage
            weight *= lam
        out.append(total)
    return out


def test_constant_reward_without_end_is_a_geometric_sum():
    reward, never = torch.full((S, T, N), 3.0).double(), torch.zeros(S, T, N, dtype=torch.bool)
    left = torch.arange(T, 0, -1, dtype=torch.float64).view(1, T, 1).expand(S, T, N)
    for gamma in (0.0, 0.5, 0.99):
        expected = 3.0 * (1 - gamma**left) / (1 - gamma)
        torch.testing.assert_close(return_to_go(reward, never, gamma), expected, **EXACT)
    torch.testing.assert_close(return_to_go(reward, never, 1.0), 3.0 * left, **EXACT)


def test_advantages_vanish_where_the_critic_is_right():
    """V = r / (1 - gamma) is a fixed point: truncation must not disturb it, termination must."""
    gamma = 0.9
    reward, value = torch.ones(S, T, N).double(), torch.full((S, T, N), 10.0).double()
    never, flags = torch.zeros(S, T, N, dtype=torch.bool), rows(1)[3]
    for lam in (0.0, 0.5, 1.0):
        for truncated in (never, flags):
            advantage = gae(reward, value, value, never, truncated, gamma, lam)
            torch.testing.assert_close(advantage, torch.zeros_like(advantage), **EXACT)
        assert float(gae(reward, value, value, flags, never, gamma, lam).min()) < -8
    for n in (0, 1, 3):
        advantage = n_step(reward, value, value, never, flags, gamma, n)
        torch.testing.assert_close(advantage, torch.zeros_like(advantage), **EXACT)


def test_a_truncated_return_to_go_ends_and_so_does_a_terminated_one():
    reward = torch.tensor([1.0, 2.0, 4.0, 8.0]).double().view(1, 4, 1)
    done = torch.tensor([False, True, False, False]).view(1, 4, 1)
    got = return_to_go(reward, done, 0.5).flatten().tolist()
    assert got == [2.0, 2.0, 8.0, 8.0]


def test_termination_and_truncation_differ_by_the_bootstrap_alone():
    reward, value, following, _, _ = rows(2)
    never, end = torch.zeros(S, T, N, dtype=torch.bool), torch.zeros(S, T, N, dtype=torch.bool)
    end[:, 4] = True
    for signal in (
        lambda *f: gae(reward, value, following, *f, 0.9, 0.8),
        lambda *f: n_step(reward, value, following, *f, 0.9, 3),
    ):
        died, cut, both = signal(end, never), signal(never, end), signal(end, end)
        torch.testing.assert_close((cut - died)[:, 4], 0.9 * following[:, 4], **EXACT)
        assert torch.equal(both, died)  # nothing follows a death, whatever the clock says
        assert torch.equal(cut[:, 5:], died[:, 5:])
        assert torch.equal(cut[:, 5:], signal(never, never)[:, 5:])


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 10**6), GAMMAS, st.sampled_from([0.0, 0.2, 0.6]))
def test_return_to_go_is_the_double_loop(seed, gamma, ends):
    reward, _, _, terminated, truncated = rows(seed, ends)
    done = terminated | truncated
    got = return_to_go(reward, done, gamma)
    assert got.dtype == torch.float64
    for (s, n), lane in lanes(reward, done):
        assert got[s, :, n].tolist() == pytest.approx(naive_return(*lane, gamma), abs=1e-12)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 10**6), GAMMAS, LAMBDAS, st.sampled_from([0.0, 0.2, 0.6]))
def test_gae_is_the_double_loop(seed, gamma, lam, ends):
    given_rows = rows(seed, ends)
    got = gae(*given_rows, gamma, lam)
    assert got.dtype == torch.float64
    for (s, n), lane in lanes(*given_rows):
        assert got[s, :, n].tolist() == pytest.approx(naive_gae(*lane, gamma, lam), abs=1e-12)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    st.integers(0, 10**6), GAMMAS, st.integers(0, T + 3), st.sampled_from([0.0, 0.2, 0.6])
)  # fmt: skip
def test_n_step_is_the_double_loop(seed, gamma, steps, ends):
    given_rows = rows(seed, ends)
    got = n_step(*given_rows, gamma, steps)
    assert got.dtype == torch.float64
    for (s, n), lane in lanes(*given_rows):
        expected = naive_n_step(*lane, gamma, steps or T)
        assert got[s, :, n].tolist() == pytest.approx(expected, abs=1e-12)


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 10**6), GAMMAS)
def test_the_ends_of_lambda_and_n(seed, gamma):
    given_rows = rows(seed)
    reward, value, following, terminated, _ = given_rows
    one_step = temporal_differences(reward, value, following, terminated, gamma)
    expected = reward + gamma * following * ~terminated - value
    torch.testing.assert_close(one_step, expected, **EXACT)
    torch.testing.assert_close(gae(*given_rows, gamma, 0.0), one_step, **EXACT)
    torch.testing.assert_close(n_step(*given_rows, gamma, 1), one_step, **EXACT)
    for steps in (0, T, T + 1, 10 * T):
        torch.testing.assert_close(
            n_step(*given_rows, gamma, steps), gae(*given_rows, gamma, 1.0), **EXACT
        )


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 10**6), st.integers(0, T - 2), st.booleans())
def test_a_reset_row_never_leaks_into_the_rows_before(seed, end, by_death):
    """In NEXT_STEP the row after an episode's end is no transition; anything may stand in it."""
    reward, value, following, _, _ = rows(seed)
    terminated, truncated = torch.zeros(2, S, T, N, dtype=torch.bool)
    (terminated if by_death else truncated)[:, end] = True
    invalid = end + 1

    def signals():
        flags = reward, value, following, terminated, truncated
        return (
            return_to_go(reward, terminated | truncated, 0.9),
            gae(*flags, 0.9, 0.95),
            n_step(*flags, 0.9, 3),
            n_step(*flags, 0.9, 0),
        )

    before = signals()
    for x in (reward, value, following):
        x[:, invalid] = 1e6
    for old, new in zip(before, signals(), strict=True):
        assert torch.equal(old[:, :invalid], new[:, :invalid])
        assert torch.equal(old[:, invalid + 1 :], new[:, invalid + 1 :])
        assert not torch.equal(old[:, invalid], new[:, invalid])


def test_lanes_and_seeds_are_independent():
    given_rows = rows(8)
    for s, n in itertools.product(range(S), range(N)):
        one = [x[s : s + 1, :, n : n + 1].clone() for x in given_rows]
        assert torch.equal(gae(*one, 0.9, 0.8)[0, :, 0], gae(*given_rows, 0.9, 0.8)[s, :, n])
        assert torch.equal(n_step(*one, 0.9, 4)[0, :, 0], n_step(*given_rows, 0.9, 4)[s, :, n])


@pytest.mark.parametrize("width", [1, 2, 7, 8, 9, 33])
def test_a_seed_has_the_same_bits_alone(width):
    """In float32, where the last lanes of a row may be computed without vector registers."""
    given_rows = [x.float() if x.is_floating_point() else x for x in rows(9, shape=(5, T, width))]
    alone = [x[3:4].clone() for x in given_rows]
    assert torch.equal(gae(*alone, 0.99, 0.95)[0], gae(*given_rows, 0.99, 0.95)[3])
    assert torch.equal(n_step(*alone, 0.99, 4)[0], n_step(*given_rows, 0.99, 4)[3])
    done = given_rows[3]
    both = return_to_go(given_rows[0], done, 0.99), return_to_go(alone[0], done[3:4], 0.99)
    assert torch.equal(both[0][3], both[1][0])
