"""Yogi."""

from math import sqrt

import numba
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastopt.kernels.term import term


@numba.njit(parallel=True, error_model="numpy")
def yogi(p, g, exp_avg, exp_avg_sq, k):
    (
        grad_scale,
        l2,
        shrink,
        step_size,
        beta1,
        one_minus_beta1,
        one_minus_beta2,
        root,
        eps,
        zero,
    ) = to_fixed_tuple(k, 10)
    for i in prange(p.size):
        grad = grad_scale * g[i] + term(l2, p[i])
        m = term(beta1, exp_avg[i]) + one_minus_beta1 * grad
        old, square = exp_avg_sq[i], grad * grad
        change = one_minus_beta2 * square
        v = old + (change if old < square else (-change if old > square else zero))
        update = term(step_size, m) / (root * sqrt(v) + eps)
        exp_avg[i] = m
        exp_avg_sq[i] = v
        p[i] = term(shrink, p[i]) - update
