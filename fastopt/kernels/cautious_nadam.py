"""NAdam, cautious: no step where the update has not the sign of the gradient."""

from math import sqrt

import numba
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastopt.kernels.term import term


@numba.njit(parallel=True, error_model="numpy")
def cautious_nadam(p, g, exp_avg, exp_avg_sq, k):
    (
        grad_scale,
        l2,
        shrink,
        grad_size,
        momentum_size,
        beta1,
        one_minus_beta1,
        beta2,
        one_minus_beta2,
        root,
        eps,
        zero,
    ) = to_fixed_tuple(k, 12)
    for i in prange(p.size):
        grad = grad_scale * g[i] + term(l2, p[i])
        m = term(beta1, exp_avg[i]) + one_minus_beta1 * grad
        v = term(beta2, exp_avg_sq[i]) + one_minus_beta2 * (grad * grad)
        direction = term(grad_size, grad) + term(momentum_size, m)
        update = direction / (root * sqrt(v) + eps)
        exp_avg[i] = m
        exp_avg_sq[i] = v
        p[i] = term(shrink, p[i]) - (zero if direction * grad <= zero else update)
