"""RMSprop."""

from math import sqrt

import numba
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastopt.kernels.term import term


@numba.njit(parallel=True, error_model="numpy")
def rmsprop(p, g, square_avg, k):
    grad_scale, l2, shrink, step_size, alpha, one_minus_alpha, eps, eps_root = to_fixed_tuple(k, 8)
    for i in prange(p.size):
        grad = grad_scale * g[i] + term(l2, p[i])
        v = term(alpha, square_avg[i]) + term(one_minus_alpha, grad * grad)
        update = term(step_size, grad) / (sqrt(v + eps_root) + eps)
        square_avg[i] = v
        p[i] = term(shrink, p[i]) - update
