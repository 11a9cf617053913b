"""Prodigy."""

from math import sqrt

import numba
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastopt.kernels.term import term


@numba.njit(parallel=True, error_model="numpy")
def prodigy(p, g, s, p0, exp_avg, exp_avg_sq, k):
    (
        grad_scale,
        l2,
        shrink,
        step_size,
        beta3,
        sum_size,
        keep,
        beta1,
        gradient_size,
        beta2,
        square_size,
        eps,
    ) = to_fixed_tuple(k, 12)
    for i in prange(p.size):
        param = p[i]
        start = p0[i]
        grad = grad_scale * g[i] + term(l2, param)
        total = term(beta3, s[i]) + term(sum_size, grad)
        m = term(beta1, exp_avg[i]) + term(gradient_size, grad)
        v = term(beta2, exp_avg_sq[i]) + term(square_size, grad * grad)
        start = param if keep == 0 else start
        update = term(step_size, m) / (sqrt(v) + eps)
        s[i] = total
        p0[i] = start
        exp_avg[i] = m
        exp_avg_sq[i] = v
        p[i] = term(shrink, param) - update
