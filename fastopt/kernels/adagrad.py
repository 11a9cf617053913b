"""Adagrad."""

from math import sqrt

import numba
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple


@numba.njit(parallel=True, error_model="numpy")
def adagrad(p, g, sum, k):
    grad_scale, l2, shrink, step_size, eps = to_fixed_tuple(k, 5)
    for i in prange(p.size):
        grad = grad_scale * g[i] + l2 * p[i]
        total = sum[i] + grad * grad
        update = step_size * grad / (sqrt(total) + eps)
        sum[i] = total
        p[i] = shrink * p[i] - update
