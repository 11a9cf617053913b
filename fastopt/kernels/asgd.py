"""Averaged gradient descent."""

import numba
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple


@numba.njit(parallel=True, error_model="numpy")
def asgd(p, g, ax, k):
    grad_scale, l2, shrink, step_size, keep, mu = to_fixed_tuple(k, 6)
    for i in prange(p.size):
        grad = grad_scale * g[i] + l2 * p[i]
        moved = shrink * p[i] - step_size * grad
        average = keep * ax[i]
        ax[i] = average + mu * (moved - average)
        p[i] = moved
