"""Adam with the largest second moment so far."""

from math import sqrt

import numba
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastopt.kernels.term import term


@numba.njit(parallel=True, error_model="numpy")
def amsgrad(p, g, exp_avg, exp_avg_sq, max_exp_avg_sq, k):
    (
        grad_scale,
        l2,
        shrink,
        step_size,
        beta1,
        one_minus_beta1,
        beta2,
        one_minus_beta2,
        root,
        eps,
        correction,
    ) = to_fixed_tuple(k, 11)
    for i in prange(p.size):
        grad = grad_scale * g[i] + term(l2, p[i])
        m = term(beta1, exp_avg[i]) + one_minus_beta1 * grad
        v = term(beta2, exp_avg_sq[i]) + one_minus_beta2 * (grad * grad)
        largest = max_exp_avg_sq[i]
        corrected = correction * v
        largest = largest if largest >= corrected else corrected
        update = term(step_size, m) / (root * sqrt(largest) + eps)
        exp_avg[i] = m
        exp_avg_sq[i] = v
        max_exp_avg_sq[i] = largest
        p[i] = term(shrink, p[i]) - update
