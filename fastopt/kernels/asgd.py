"""Averaged gradient descent."""

import numba
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastopt.kernels.term import term


@numba.njit(parallel=True, error_model="numpy")
def asgd(p, g, ax, k):
    grad_scale, l2, shrink, step_size, keep, mu = to_fixed_tuple(k, 6)
    for i in prange(p.size):
        grad = grad_scale * g[i] + term(l2, p[i])
        moved = term(shrink, p[i]) - term(step_size, grad)
        average = ax[i]
        # Where they are equal, too: inf - inf is NaN.
        ax[i] = moved if keep == 0 or average == moved else average + term(mu, moved - average)
        p[i] = moved
