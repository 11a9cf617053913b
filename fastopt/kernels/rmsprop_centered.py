"""RMSprop, centered."""

from math import sqrt

import numba
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastopt.kernels.term import term


@numba.njit(parallel=True, error_model="numpy")
def rmsprop_centered(p, g, square_avg, grad_avg, k):
    grad_scale, l2, shrink, step_size, alpha, one_minus_alpha, eps, eps_root, zero = to_fixed_tuple(k, 9)
    for i in prange(p.size):
        grad = grad_scale * g[i] + term(l2, p[i])
        v = term(alpha, square_avg[i]) + term(one_minus_alpha, grad * grad)
        m = term(alpha, grad_avg[i]) + term(one_minus_alpha, grad)
        difference = v - m * m
        below = difference if difference < v else v  # v where it is infinite: inf - inf is NaN
        variance = zero if below < zero else below
        update = term(step_size, grad) / (sqrt(variance + eps_root) + eps)
        square_avg[i] = v
        grad_avg[i] = m
        p[i] = term(shrink, p[i]) - update
