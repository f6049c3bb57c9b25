"""Counter-based noise: the published generator, and a number that depends on its name alone.

Chance of failing by luck: every statistical test below uses |z| < 6.5, P = 8.0e-11 each, on fewer
than 1,000 comparisons: below 1e-7 per run. Seeds are the literals shown; none was chosen by its
outcome.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlgrad import streams
from rlgrad.streams import Purpose, Streams, derive, philox, uniform

torch.set_num_threads(1)
Z_BOUND = 6.5
WORD = 0xFFFFFFFF
SEEDS = [7, 0, 3, 11, 2**32 - 1, 2**32, 2**63 + 5, 2**64 - 1, *range(100, 112)]

# Random123's known answers (kat_vectors, "philox4x32 10"): counter, key, output.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip


def hexes(text):
    return [int(word, 16) for word in text.split()]


def words(seeds, purpose, iteration, lanes, count):
    """``[S, N, count]`` words of one iteration."""
    return Streams(seeds).words(purpose, torch.tensor([iteration]), lanes, count)[0]


def philox_in_python(counter, key):
    """The generator as the paper writes it, in Python's integers."""
    x, k = list(counter), list(key)
    for _ in range(10):
        high0, low0 = divmod(x[0] * 0xD2511F53, 1 << 32)
        high1, low1 = divmod(x[2] * 0xCD9E8D57, 1 << 32)
        x = [high1 ^ x[1] ^ k[0], low1, high0 ^ x[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B9) & WORD, (k[1] + 0xBB67AE85) & WORD]
    return x


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN)
def test_published_vectors(counter, key, output):
    got = philox(torch.tensor(hexes(counter)), torch.tensor(hexes(key)))
    assert [int(word) for word in got] == hexes(output)
    assert philox_in_python(hexes(counter), hexes(key)) == hexes(output)


def test_published_vectors_in_a_batch_with_other_counters():
    counters = torch.tensor([hexes(c) for c, _, _ in KNOWN]).T
    keys = torch.tensor([hexes(k) for _, k, _ in KNOWN]).T
    got = torch.stack(philox(counters, keys)).T
    assert got.tolist() == [hexes(output) for _, _, output in KNOWN]


def test_a_number_is_the_block_of_its_seed_purpose_iteration_lane_and_index():
    seed, iteration, lane, count = 2**40 + 9, 2**32 - 1, 5, 11
    got = words([seed], Purpose.RELAXATION, iteration, lane + 1, count)[0, lane].tolist()
    expected = []
    for block in range(3):  # 11 words are three blocks of four, the last one cut
        counter = [block, lane, iteration, int(Purpose.RELAXATION)]
        expected += philox_in_python(counter, [seed & WORD, seed >> 32])
    assert got == expected[:count]


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    st.sampled_from(SEEDS), st.sampled_from(list(Purpose)), st.integers(0, 5000),
    st.integers(1, 9), st.integers(1, 9), st.integers(1, 40), st.integers(1, 40),
)  # fmt: skip
def test_a_number_is_the_same_in_any_company(seed, purpose, iteration, lanes, others, count, more):
    alone = Streams([seed]).uniform(purpose, iteration, lanes, count)[0]
    company = Streams(SEEDS).uniform(purpose, iteration, lanes + others, count + more)
    assert torch.equal(alone, company[SEEDS.index(seed), :lanes, :count])


@pytest.mark.parametrize("ahead", [1, 7, 1 << 10, 1 << 15])
def test_made_ahead_or_not_in_any_order(monkeypatch, ahead):
    plain = {
        (purpose, i): uniform(words(SEEDS, purpose, i, 3, 10))
        for purpose in (Purpose.ACTION, Purpose.RELAXATION)
        for i in range(12)
    }
    monkeypatch.setattr(streams, "_AHEAD", ahead)
    stream = Streams(SEEDS)
    order = [0, 1, 2, 11, 3, 0, 10, 5, 5, 4, 9, 1]
    for i, purpose in itertools.product(order, (Purpose.ACTION, Purpose.RELAXATION)):
        assert torch.equal(stream.uniform(purpose, i, 3, 10), plain[purpose, i])
        # Another shape for the same purpose must not disturb what is kept for this one.
        assert torch.equal(stream.uniform(purpose, i, 2, 7), plain[purpose, i][:, :2, :7])


@pytest.mark.parametrize("count", [1, 3, 8, 21, 455])
@pytest.mark.parametrize("lanes", [1, 7, 8])
def test_exponential_has_the_same_bits_alone(lanes, count):
    """The logarithm must not depend on where a number stands in a vector register."""
    company = Streams(SEEDS).exponential(Purpose.ACTION, 4, lanes, count)
    for seed in SEEDS[:5]:
        alone = Streams([seed]).exponential(Purpose.ACTION, 4, lanes, count)
        assert torch.equal(alone[0], company[SEEDS.index(seed)])


def test_exponential_is_minus_the_logarithm():
    u = Streams([5]).uniform(Purpose.ACTION, 3, 4, 100)
    x = Streams([5]).exponential(Purpose.ACTION, 3, 4, 100)
    torch.testing.assert_close(x.double(), -u.double().log(), rtol=3e-7, atol=1e-12)
    assert bool((x > 0).all())


@pytest.mark.parametrize("seed", [0, 7, 2**32, 2**64 - 1])
@pytest.mark.parametrize("path", [(), (3,), (3, 12), (2**32 - 1, 2**32 - 1)])
def test_derive_equals_the_tensor_generator(seed, path):
    lane, iteration = [*path, 0, 0][:2]
    key = torch.tensor([seed & WORD, seed >> 32])
    counter = torch.tensor([0, lane, iteration, int(Purpose.LANE_SEED)])
    first, second, *_ = (int(word) for word in philox(counter, key))
    got = derive(seed, Purpose.LANE_SEED, *path)
    assert got == first | (second & 0x7FFFFFFF) << 32
    assert 0 <= got < 1 << 63


def test_derive_agrees_with_words_of_a_lane():
    drawn = words([9], Purpose.RESET, 6, 5, 4)[0, 4].tolist()
    assert derive(9, Purpose.RESET, 4, 6) == drawn[0] | (drawn[1] & 0x7FFFFFFF) << 32


def test_uniform_is_inside_the_open_interval_even_at_extreme_words():
    extreme = uniform(torch.tensor([0, 511, 512, WORD - 511, WORD]))
    assert extreme.tolist() == [2**-24, 2**-24, 3 * 2**-24, 1 - 2**-24, 1 - 2**-24]
    assert extreme.dtype == torch.float32
    # So no exponential is 0 and none infinite, and neither is a Gumbel number.
    exponential = -extreme.log()
    assert bool((exponential > 0).all())
    assert bool(exponential.log().isfinite().all())


def test_moments_of_uniform_and_exponential():
    n = 1 << 18
    u = Streams([2024]).uniform(Purpose.ACTION, 0, 64, n // 64).double().flatten()
    x = Streams([2024]).exponential(Purpose.ACTION, 1, 64, n // 64).double().flatten()
    for sample, power, mean, deviation in [
        (u, 1, 1 / 2, math.sqrt(1 / 12)),
        (u, 2, 1 / 3, math.sqrt(1 / 5 - 1 / 9)),
        (u, 3, 1 / 4, math.sqrt(1 / 7 - 1 / 16)),
        (x, 1, 1.0, 1.0),
        (x, 2, 2.0, math.sqrt(24 - 4)),
        (x, 3, 6.0, math.sqrt(720 - 36)),
    ]:
        z = (float((sample**power).mean()) - mean) / (deviation / math.sqrt(n))
        assert abs(z) < Z_BOUND, (power, mean, z)


def test_every_bit_of_every_word_is_fair():
    n = 1 << 16
    drawn = words([31], Purpose.ACTION, 0, 16, n // 16).reshape(-1, 4)  # by place in the block
    bits = (drawn.unsqueeze(-1) >> torch.arange(32)) & 1
    z = (bits.double().mean(0) - 0.5) * 2 * math.sqrt(len(drawn))
    assert float(z.abs().max()) < Z_BOUND


@pytest.mark.parametrize("axis", ["seed", "purpose", "iteration", "lane", "index"])
def test_neighbours_along_every_axis_are_uncorrelated(axis):
    n = 1 << 14

    def draw(step):
        at = dict.fromkeys(["seed", "purpose", "iteration", "lane", "index"], 1)
        at[axis] += step
        purpose = Purpose(at["purpose"])
        row = uniform(words([at["seed"]], purpose, at["iteration"], 4, n + 4))[0]
        return row[at["lane"], at["index"] : at["index"] + n].double() - 0.5

    for step in (1, 2):
        z = float((draw(0) * draw(step)).sum()) * 12 / math.sqrt(n)
        assert abs(z) < Z_BOUND


def test_purposes_and_paths_never_collide():
    assert len({int(purpose) for purpose in Purpose}) == len(Purpose)
    drawn = [words([3], purpose, i, 4, 8) for purpose in Purpose for i in range(4)]
    # 64-bit numbers: among 7 x 4 x 4 x 4 of them two agree by luck with probability below 1e-14.
    pairs = torch.stack(drawn).unflatten(-1, (4, 2)).flatten(0, -2)
    assert len({tuple(pair) for pair in pairs.tolist()}) == len(pairs)
    derived = [
        derive(seed, purpose, lane, episode)
        for seed, purpose, lane, episode in itertools.product(
            [0, 1, 2**32], Purpose, range(8), range(8)
        )
    ]
    assert len(set(derived)) == len(derived)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_out_of_range_are_refused(seed):
    with pytest.raises(ValueError, match=rf"got seed {seed}; expected 0 <= seed < 2\^64"):
        Streams([3, seed])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_same_words():
    expected = words(SEEDS, Purpose.ACTION, 9, 3, 10)
    got = Streams(SEEDS, "cuda").words(
        Purpose.ACTION, torch.tensor([9], device="cuda"), lanes=3, count=10
    )
    assert torch.equal(got[0].cpu(), expected)
