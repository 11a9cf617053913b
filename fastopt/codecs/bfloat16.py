"""bfloat16 in numba."""

import numba
import numpy as np

from fastopt.codecs.bits import QUIET, random_bits, shifted

_16 = np.uint32(16)


@numba.njit
def decode(codes, values):
    for i in range(values.size):
        values[i] = np.uint32(np.uint32(codes[i]) << _16).view(np.float32)


@numba.njit
def encode(values, codes):
    for i in range(values.size):
        value = np.float32(values[i])
        bits = value.view(np.uint32)
        codes[i] = np.uint16(_quieted(bits) if value != value else shifted(bits, _16))


@numba.njit
def encode_stochastic(values, codes, noise, shift):
    for i in range(values.size):
        value = np.float32(values[i])
        bits = value.view(np.uint32)
        moved = np.uint32(np.uint32(bits + random_bits(noise[i], shift)) >> _16)
        codes[i] = np.uint16(_quieted(bits) if value != value else moved)


@numba.njit
def _quieted(bits):
    return np.uint32(np.uint32(bits | QUIET) >> _16)
