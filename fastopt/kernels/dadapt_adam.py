"""DAdaptAdam."""

from math import sqrt

import numba
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastopt.kernels.term import term


@numba.njit(parallel=True, error_model="numpy")
def dadapt_adam(p, g, s, exp_avg_sq, exp_avg, k):
    (
        grad_scale,
        l2,
        shrink,
        root,
        sum_size,
        beta1,
        gradient_size,
        beta2,
        one_minus_beta2,
        eps,
    ) = to_fixed_tuple(k, 10)
    for i in prange(p.size):
        grad = grad_scale * g[i] + term(l2, p[i])
        total = term(root, s[i]) + term(sum_size, grad)
        m = term(beta1, exp_avg[i]) + term(gradient_size, grad)
        v = term(beta2, exp_avg_sq[i]) + one_minus_beta2 * (grad * grad)
        update = m / (sqrt(v) + eps)
        s[i] = total
        exp_avg_sq[i] = v
        exp_avg[i] = m
        p[i] = term(shrink, p[i]) - update
