"""split in numba: a float32 in two halves, of which the upper one can be read as bfloat16."""

import numba
import numpy as np

from fastopt.codecs.bits import INFINITY, MAGNITUDE, QUIET

_16 = np.uint32(16)
_HALF = np.uint32(0x8000)


@numba.njit
def decode(upper, lower, values):
    for i in range(values.size):
        rest = np.uint32(np.uint32(np.uint32(lower[i]) ^ _HALF) - _HALF)  # with its sign
        values[i] = np.uint32(np.uint32(np.uint32(upper[i]) << _16) + rest).view(np.float32)


@numba.njit
def encode(values, upper, lower):
    for i in range(values.size):
        bits = np.float32(values[i]).view(np.uint32)
        quieted = np.uint32(np.uint32(bits | QUIET) & np.uint32(0xFFFF0000))
        whole = quieted if np.uint32(bits & MAGNITUDE) > INFINITY else bits
        upper[i] = np.uint16(np.uint32(np.uint32(whole + _HALF) >> _16))
        lower[i] = np.uint16(whole)
