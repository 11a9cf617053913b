"""The cube root."""

import numba
import numpy as np
from numba.extending import overload
from numba.np.numpy_support import as_dtype


@numba.njit(error_model="numpy")
def cbrt(x):
    """The cube root of any number, less than 0.81 units in the last place away."""
    return _cbrt(x)


def _cbrt(x):
    return _OF[type(x)](x)


def _computing_in(real, word, start, steps):
    """The cube root in numbers of a type whose bits are a ``word``, as ``csrc/cbrt.h`` says."""
    one, up, down, third = map(real, (1, 2.0**60, 2.0**-20, 1 / 3))
    a, b, c, d = (real(each / 81) for each in (220, 264, 165, 40))
    half, start, third_of_bits = map(word, (4 * word().itemsize, start, 2 ** (4 * word().itemsize) // 3))

    def of_element(x):
        v = x * (up if abs(x) < one else one)
        magnitude = real(abs(v))
        high = word(magnitude.view(word) >> half)
        y = word(start - word(high * third_of_bits)).view(real)
        square = y * y
        cube = magnitude * y * square
        root = v * square
        root = root * ((a - b * cube) + cube * cube * (c - d * cube))
        for _ in range(steps):
            root = root + third * (v / (root * root) - root)
        root = root * (down if abs(x) < one else one)
        return root if root == root else x

    return of_element


_OF = {
    np.float32: _computing_in(np.float32, np.uint32, 0x54A23000, 1),
    np.float64: _computing_in(np.float64, np.uint64, 0x553EF0D900000000, 2),
}


@overload(_cbrt)
def _choose(x):
    return _OF[as_dtype(x).type]
