"""Adagrad."""

from math import sqrt

import numba
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastopt.kernels.term import term


@numba.njit(parallel=True, error_model="numpy")
def adagrad(p, g, sum, k):
    grad_scale, l2, shrink, step_size, eps, eps_root = to_fixed_tuple(k, 6)
    for i in prange(p.size):
        grad = grad_scale * g[i] + term(l2, p[i])
        total = sum[i] + grad * grad
        update = term(step_size, grad) / (sqrt(total + eps_root) + eps)
        sum[i] = total
        p[i] = term(shrink, p[i]) - update
