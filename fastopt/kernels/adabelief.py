"""AdaBelief."""

from math import sqrt

import numba
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastopt.kernels.term import term


@numba.njit(parallel=True, error_model="numpy")
def adabelief(p, g, exp_avg, exp_avg_var, k):
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
    ) = to_fixed_tuple(k, 10)
    for i in prange(p.size):
        grad = grad_scale * g[i] + term(l2, p[i])
        m = term(beta1, exp_avg[i]) + one_minus_beta1 * grad
        surprise = grad - m
        s = term(beta2, exp_avg_var[i]) + one_minus_beta2 * (surprise * surprise) + eps
        update = term(step_size, m) / (root * sqrt(s) + eps)
        exp_avg[i] = m
        exp_avg_var[i] = s
        p[i] = term(shrink, p[i]) - update
