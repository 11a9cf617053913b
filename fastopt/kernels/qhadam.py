"""QHAdam."""

from math import sqrt

import numba
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastopt.kernels.term import term


@numba.njit(parallel=True, error_model="numpy")
def qhadam(p, g, exp_avg, exp_avg_sq, k):
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
        square_part,
        moment_part,
        eps,
    ) = to_fixed_tuple(k, 12)
    for i in prange(p.size):
        grad = grad_scale * g[i] + term(l2, p[i])
        square = grad * grad
        m = term(beta1, exp_avg[i]) + one_minus_beta1 * grad
        v = term(beta2, exp_avg_sq[i]) + one_minus_beta2 * square
        mixed = term(square_part, square) + term(moment_part, v)
        update = (term(grad_size, grad) + term(momentum_size, m)) / (sqrt(mixed) + eps)
        exp_avg[i] = m
        exp_avg_sq[i] = v
        p[i] = term(shrink, p[i]) - update
