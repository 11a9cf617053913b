"""Averages, sums and copies: no rule's, but what other buffers than parameters are updated by."""

import numba
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastopt.kernels.term import term


@numba.njit(parallel=True, error_model="numpy")
def blend(p, g, k):
    past, add = to_fixed_tuple(k, 2)
    for i in prange(p.size):
        p[i] = term(past, p[i]) + add * g[i]
