"""All noise of training: a pure function of (seed, purpose, iteration, lane, index).

The generator is Philox4x32-10 (Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy
as 1, 2, 3", doi:10.1145/2063384.2063405) in int64 tensor operations: the 64-bit key is the seed,
the 128-bit counter is (index, lane, iteration, purpose). So the state of all randomness is the
iteration number, and a number is the same on CPU and GPU, alone or among twenty seeds, whenever it
is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import torch
from jaxtyping import Float, Int
from torch import Tensor

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_AHEAD = 1 << 15  # numbers made per call: small batches cost dispatch, not arithmetic


class Purpose(IntEnum):
    """What a number is for; two purposes never share a counter."""

    INITIALISE = 0
    ACTION = 1
    RELAXATION = 2
    RESET = 3
    LANE_SEED = 4
    EVALUATE = 5
    PREDICT = 6
    MEASURE = 7


_on_device: dict[torch.device, list[Tensor]] = {}


def _constants(device: torch.device) -> list[Tensor]:
    """Multipliers, the same in the other order, and steps of the key.

    Made once: a copy from the host inside a program is what a CUDA graph cannot hold.
    """
    found = _on_device.get(device)
    if found is None:
        pairs = _MULTIPLIERS, _MULTIPLIERS[::-1], _WEYL
        found = _on_device[device] = [torch.tensor(pair, device=device) for pair in pairs]
    return found


def philox(
    counter: Int[Tensor, "4 *shape"], key: Int[Tensor, "2 *#shape"]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10: four 32-bit words (as int64) for each counter under each key.

    Args:
        counter: ``[4, ...]`` words of the counter, each below 2^32.
        key: ``[2, ...]`` words of the key, broadcastable to the counter's shape.
    """
    # Words are kept in pairs: even = (word 0, word 2), odd = (word 1, word 3). Each round swaps
    # the members of a pair; instead of moving the even pair, the constants change places.
    even, odd = counter[0::2].clone(), counter[1::2]
    shape = (2, *[1] * (counter.ndim - 1))
    multiplier, swapped, weyl = (words.view(shape) for words in _constants(counter.device))
    multipliers = multiplier, swapped
    for i in range(_ROUNDS):
        turn = key.flip(0) if i % 2 == 0 else key
        product = even * multipliers[i % 2]
        even = (product >> 32).bitwise_and_(_WORD).bitwise_xor_(odd.flip(0)).bitwise_xor_(turn)
        odd = product.bitwise_and_(_WORD)
        key = (key + weyl).bitwise_and_(_WORD)
    return even[0], odd[0], even[1], odd[1]


def uniform(words: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Words -> float32 in the open interval (0, 1): midpoints of 2^23 equal cells, exact."""
    return ((words >> 9).to(torch.float32) + 0.5) * 2.0**-23


class Streams:
    """The noise of S seeds.

    Args:
        seeds: S integers, each 0 <= seed < 2^64.
        device: where the noise is made.
        first: number of the first lane, where the lanes are a share of more.

    Raises:
        ValueError: for a seed out of range.
    """

    def __init__(
        self, seeds: Sequence[int], device: torch.device | str = "cpu", first: int = 0
    ) -> None:
        for seed in seeds:
            if not 0 <= seed < 1 << 64:
                raise ValueError(f"got seed {seed}; expected 0 <= seed < 2^64")
        words = [[seed & _WORD for seed in seeds], [seed >> 32 for seed in seeds]]
        self.device = torch.device(device)
        self.key = torch.tensor(words, dtype=torch.int64, device=self.device).view(2, 1, -1, 1, 1)
        self.first, self.philox = first, philox
        """The generator, or a compiled one."""
        self._ahead: dict[tuple[Purpose, int, int], tuple[int, Tensor]] = {}

    def words(
        self, purpose: Purpose, iterations: Int[Tensor, " I"], lanes: int, count: int
    ) -> Int[Tensor, "I S N count"]:
        """Random 32-bit words ``[I, S, N, count]`` as int64.

        Args:
            purpose: what for.
            iterations: ``[I]`` numbers below 2^32.
            lanes: N.
            count: words per lane, numbered by ``index``.
        """
        blocks = -(-count // 4)
        shape = (4, len(iterations), self.key.shape[2], lanes, blocks)
        counter = torch.empty(shape, dtype=torch.int64, device=self.device)
        counter[0] = torch.arange(blocks, device=self.device)
        numbered = torch.arange(self.first, self.first + lanes, device=self.device)
        counter[1] = numbered.unsqueeze(1)
        counter[2] = iterations.view(-1, 1, 1, 1)
        counter[3].fill_(int(purpose))
        return torch.stack(self.philox(counter, self.key), -1).flatten(-2)[..., :count]

    def uniform(
        self, purpose: Purpose, iteration: int, lanes: int, count: int
    ) -> Float[Tensor, "S N count"]:
        """Numbers in (0, 1), ``[S, N, count]`` float32; made ahead for several iterations."""
        size = self.key.shape[2] * lanes * count
        block = max(1, _AHEAD // max(size, 1))
        start = iteration - iteration % block
        kept, numbers = self._ahead.get((purpose, lanes, count), (-1, None))
        if kept != start or numbers is None:
            iterations = torch.arange(start, start + block, device=self.device)
            numbers = uniform(self.words(purpose, iterations, lanes, count))
            self._ahead[purpose, lanes, count] = start, numbers
        return numbers[iteration - start]

    def uniform_at(
        self, purpose: Purpose, iteration: Int[Tensor, " 1"], lanes: int, count: int
    ) -> Float[Tensor, "S N count"]:
        """As ``uniform``, of an iteration that the device counts: the host is not asked."""
        return uniform(self.words(purpose, iteration, lanes, count))[0]

    def exponential(
        self, purpose: Purpose, iteration: int, lanes: int, count: int
    ) -> Float[Tensor, "S N count"]:
        """Exp(1) numbers, strictly positive, ``[S, N, count]`` float32."""
        return self.uniform(purpose, iteration, lanes, count).log().neg_()


def by_step(numbers: Float[Tensor, "S N count"], copies: int, T: int, D: int, A: int) -> Tensor:
    """Each lane's numbers as ``[S, T, N, D, A]``, with a leading K for K copies."""
    S, N, _ = numbers.shape
    each = numbers.view(S, N, copies, T, D, A).permute(2, 0, 3, 1, 4, 5)
    return each[0] if copies == 1 else each


def derive(seed: int, purpose: Purpose, *path: int) -> int:
    """A 63-bit seed for (seed, purpose, path): for generators that are not ours.

    The same generator in Python's own integers, which is faster for one number.

    Args:
        seed: 0 <= seed < 2^64.
        purpose: what for.
        *path: at most two numbers below 2^32, such as a lane and an episode.
    """
    a, b, c, d = [0, *path, *[0] * (2 - len(path)), int(purpose)]
    low, high = seed & _WORD, seed >> 32
    for _ in range(_ROUNDS):
        first, second = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b, c, d = (
            (second >> 32) ^ b ^ low,
            second & _WORD,
            (first >> 32) ^ d ^ high,
            first & _WORD,
        )
        low, high = (low + _WEYL[0]) & _WORD, (high + _WEYL[1]) & _WORD
    return a | (b & 0x7FFFFFFF) << 32
