"""Random words for stochastic rounding, in numba: see :mod:`fastopt.storages.noise`."""

import numba
import numpy as np

_FIRST, _SECOND = np.uint32(0x7FEB352D), np.uint32(0x846CA68B)
_15, _16, _32 = np.uint32(15), np.uint32(16), np.uint64(32)


@numba.njit
def fill_noise(key, first, noise):
    """Fills an array with the words of the elements from number ``first``; the key is uint64."""
    start = np.uint32(np.uint32(first) + np.uint32(key))
    middle = np.uint32(key >> _32)
    for i in range(noise.size):  # in a loop of its own: from an index of 64 bits LLVM would go on in 64 bits
        noise[i] = np.uint32(start + np.uint32(i))
    for i in range(noise.size):
        x = noise[i]
        x = np.uint32(np.uint32(x ^ np.uint32(x >> _16)) * _FIRST)
        x = np.uint32(np.uint32(x ^ np.uint32(np.uint32(x >> _15) ^ middle)) * _SECOND)
        noise[i] = np.uint32(x ^ np.uint32(x >> _16))
