"""MARS."""

from math import sqrt

import numba
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastopt.kernels.term import term


@numba.njit(parallel=True, error_model="numpy")
def mars(p, g, exp_avg, exp_avg_sq, last_grad, k):
    (
        grad_scale,
        l2,
        shrink,
        step_size,
        correction,
        clip,
        beta1,
        one_minus_beta1,
        beta2,
        one_minus_beta2,
        root,
        eps,
    ) = to_fixed_tuple(k, 12)
    for i in prange(p.size):
        grad = grad_scale * g[i] + term(l2, p[i])
        corrected = clip * (grad + term(correction, grad - last_grad[i]))
        m = term(beta1, exp_avg[i]) + one_minus_beta1 * corrected
        v = term(beta2, exp_avg_sq[i]) + one_minus_beta2 * (corrected * corrected)
        update = term(step_size, m) / (root * sqrt(v) + eps)
        last_grad[i] = grad
        exp_avg[i] = m
        exp_avg_sq[i] = v
        p[i] = term(shrink, p[i]) - update
