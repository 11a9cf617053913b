"""The random numbers of stochastic rounding: a hash, so that neither threads nor splits of the work show.

The stream of a kernel's parameters has the number 0, that of the gradient 1, those of the states 2, 3 and so on. For
each two streams, one step and one element there is a word of 32 bits; the even stream takes its lower half and the odd
one its upper half. Elements are counted from the start of their parameter, modulo 2^32.
"""

from functools import lru_cache
from typing import Any

import numpy as np

_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio
_WORD = 2**64 - 1
_AHEAD = 64  # steps: to make their keys together takes hardly longer than to make those of one


def key(seed: int, step: Any, pair: Any) -> Any:
    """The key of the words of streams ``2 * pair`` and ``2 * pair + 1`` in a step: 64 bits.

    Step and pair are whole numbers, or arrays of uint64 for an array of keys. Seed, step and pair are folded in turn by
    the output function of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014).
    """
    state = 0
    for number in (seed, step, pair):
        state = (state ^ number) + _GOLDEN & _WORD
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _WORD
        state = (state ^ state >> 27) * 0x94D049BB133111EB & _WORD
        state ^= state >> 31
    return state


def fill_keys(keys: np.ndarray, seed: int, step: int) -> None:
    """Fills in the keys of a step: uint64, one for each pair from number 0 on."""
    keys[:] = _keys(seed, step // _AHEAD, keys.size)[step % _AHEAD]


@lru_cache(maxsize=16)
def _keys(seed: int, number: int, pairs: int) -> np.ndarray:
    steps = np.arange(number * _AHEAD, (number + 1) * _AHEAD, dtype=np.uint64)
    return key(seed, steps[:, np.newaxis], np.arange(pairs, dtype=np.uint64))


def words(key: int, first: int, count: int) -> np.ndarray:
    """The words of ``count`` elements from number ``first``: uint32.

    Two rounds of xorshift and multiply with the constants of lowbias32 (C. Wellons, hash-prospector; public domain);
    the key's lower half is added to the element's number, its upper half comes in between the rounds.
    """
    x = np.arange(first, first + count, dtype=np.uint64).astype(np.uint32) + np.uint32(key & 0xFFFFFFFF)
    x ^= x >> 16
    x *= np.uint32(0x7FEB352D)
    x ^= x >> 15 ^ np.uint32(key >> 32)
    x *= np.uint32(0x846CA68B)
    return x ^ x >> 16


def half(words: np.ndarray, stream: int) -> np.ndarray:
    """The 16 bits of a stream: numbers in [0, 65536)."""
    return words >> 16 * (stream % 2) & 0xFFFF
