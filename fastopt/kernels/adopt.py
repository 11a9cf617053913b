"""ADOPT."""

from math import sqrt

import numba
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastopt.kernels.term import term


@numba.njit(parallel=True, error_model="numpy")
def adopt(p, g, exp_avg, exp_avg_sq, k):
    (
        grad_scale,
        l2,
        shrink,
        step_size,
        beta1,
        one_minus_beta1,
        beta2,
        one_minus_beta2,
        eps,
        largest,
    ) = to_fixed_tuple(k, 10)
    for i in prange(p.size):
        grad = grad_scale * g[i] + term(l2, p[i])
        old = exp_avg_sq[i]
        size = sqrt(old)
        size = eps if size < eps else size
        normalized = grad / size
        normalized = -largest if normalized < -largest else normalized
        normalized = largest if normalized > largest else normalized
        m = term(beta1, exp_avg[i]) + one_minus_beta1 * normalized
        exp_avg[i] = m
        exp_avg_sq[i] = term(beta2, old) + one_minus_beta2 * (grad * grad)
        p[i] = term(shrink, p[i]) - term(step_size, m)
