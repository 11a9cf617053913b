"""Adadelta."""

from math import sqrt

import numba
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastopt.kernels.term import term


@numba.njit(parallel=True, error_model="numpy")
def adadelta(p, g, square_avg, acc_delta, k):
    grad_scale, l2, shrink, step_size, rho, one_minus_rho, eps = to_fixed_tuple(k, 7)
    for i in prange(p.size):
        grad = grad_scale * g[i] + term(l2, p[i])
        v = term(rho, square_avg[i]) + term(one_minus_rho, grad * grad)
        delta = sqrt((acc_delta[i] + eps) / (v + eps)) * grad
        square_avg[i] = v
        acc_delta[i] = term(rho, acc_delta[i]) + term(one_minus_rho, delta * delta)
        p[i] = term(shrink, p[i]) - term(step_size, delta)
