"""Moving averages, sums and assignments: what is no rule."""

import numba
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastopt.kernels.term import term


@numba.njit(parallel=True, error_model="numpy")
def blend(p, g, k):
    keep, add = to_fixed_tuple(k, 2)
    for i in prange(p.size):
        p[i] = term(keep, p[i]) + term(add, g[i])
