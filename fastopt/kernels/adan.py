"""Adan."""

from math import sqrt

import numba
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastopt.kernels.term import term


@numba.njit(parallel=True, error_model="numpy")
def adan(p, g, exp_avg, exp_avg_diff, exp_avg_sq, previous_grad, k):
    (
        grad_scale,
        l2,
        shrink,
        step_size,
        diff_size,
        keep,
        ahead_size,
        beta1,
        one_minus_beta1,
        beta2,
        one_minus_beta2,
        beta3,
        one_minus_beta3,
        root,
        eps,
        eps_root,
    ) = to_fixed_tuple(k, 16)
    for i in prange(p.size):
        grad = grad_scale * g[i] + term(l2, p[i])
        previous = previous_grad[i]
        difference = grad - (grad if keep == 0 else previous)
        ahead = grad + term(ahead_size, difference)
        m = term(beta1, exp_avg[i]) + one_minus_beta1 * grad
        n = term(beta2, exp_avg_diff[i]) + one_minus_beta2 * difference
        v = term(beta3, exp_avg_sq[i]) + one_minus_beta3 * (ahead * ahead)
        update = (term(step_size, m) + term(diff_size, n)) / (root * sqrt(v + eps_root) + eps)
        exp_avg[i] = m
        exp_avg_diff[i] = n
        exp_avg_sq[i] = v
        previous_grad[i] = grad
        p[i] = term(shrink, p[i]) - update
