"""Bit patterns of float32 in numba: what codecs compute with.

numba adds and shifts uint32 as uint64: a result that is not wrapped in ``np.uint32`` at once is not vectorized.
"""

import numba
import numpy as np

MAGNITUDE = np.uint32(0x7FFFFFFF)
INFINITY = np.uint32(0x7F800000)  # the magnitude of an infinity: that of a NaN is larger
QUIET = np.uint32(0x00400000)


def biased(exponent: int) -> np.uint32:
    """The bits of ``2**exponent``."""
    return np.uint32((127 + exponent) << 23)


@numba.njit
def left(bits, count):
    """Bits shifted by a count below 32 that is no literal: told so, LLVM keeps to 32 bits."""
    return np.uint32(bits << np.uint32(count & np.uint32(31)))


@numba.njit
def right(bits, count):
    return np.uint32(bits >> np.uint32(count & np.uint32(31)))


@numba.njit
def shifted(bits, dropped):
    """``bits / 2**dropped``, to the nearest integer, ties to even."""
    one = np.uint32(1)
    below_half = np.uint32(left(one, np.uint32(dropped - one)) - one)
    odd = np.uint32(right(bits, dropped) & one)
    return right(np.uint32(bits + np.uint32(below_half + odd)), dropped)


@numba.njit
def random_bits(noise, shift):
    """The 16 bits of a word of noise that start at ``shift``."""
    return np.uint32(right(noise, shift) & np.uint32(0xFFFF))
