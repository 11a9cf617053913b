"""Adamax."""

import numba
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastopt.kernels.term import term


@numba.njit(parallel=True, error_model="numpy")
def adamax(p, g, exp_avg, exp_inf, k):
    grad_scale, l2, shrink, step_size, beta1, one_minus_beta1, beta2, eps = to_fixed_tuple(k, 8)
    for i in prange(p.size):
        grad = grad_scale * g[i] + term(l2, p[i])
        m = term(beta1, exp_avg[i]) + one_minus_beta1 * grad
        size = abs(grad) + eps
        faded = term(beta2, exp_inf[i])
        u = faded if faded >= size else size
        update = term(step_size, m) / u
        exp_avg[i] = m
        exp_inf[i] = u
        p[i] = term(shrink, p[i]) - update
