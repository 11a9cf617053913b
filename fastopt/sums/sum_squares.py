"""The square of the gradient times ``scale``: for its norm."""

import numba
import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple


@numba.njit(error_model="numpy")
def sum_squares(g, k, squares):
    (scale,) = to_fixed_tuple(k, 1)
    for i in range(g.size):
        x = np.float64(scale) * np.float64(g[i])
        squares[i] = x * x
