"""RMSprop, centered and with momentum."""

from math import sqrt

import numba
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastopt.kernels.term import term


@numba.njit(parallel=True, error_model="numpy")
def rmsprop_centered_momentum(p, g, square_avg, grad_avg, momentum_buffer, k):
    grad_scale, l2, shrink, step_size, alpha, one_minus_alpha, eps, eps_root, zero, momentum = to_fixed_tuple(k, 10)
    for i in prange(p.size):
        grad = grad_scale * g[i] + term(l2, p[i])
        v = term(alpha, square_avg[i]) + term(one_minus_alpha, grad * grad)
        m = term(alpha, grad_avg[i]) + term(one_minus_alpha, grad)
        difference = v - m * m
        below = difference if difference < v else v  # v where it is infinite: inf - inf is NaN
        variance = zero if below < zero else below
        velocity = term(momentum, momentum_buffer[i]) + grad / (sqrt(variance + eps_root) + eps)
        square_avg[i] = v
        grad_avg[i] = m
        momentum_buffer[i] = velocity
        p[i] = term(shrink, p[i]) - term(step_size, velocity)
