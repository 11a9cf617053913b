"""RMSprop with momentum."""

from math import sqrt

import numba
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastopt.kernels.term import term


@numba.njit(parallel=True, error_model="numpy")
def rmsprop_momentum(p, g, square_avg, momentum_buffer, k):
    grad_scale, l2, shrink, step_size, alpha, one_minus_alpha, eps, eps_root, momentum = to_fixed_tuple(k, 9)
    for i in prange(p.size):
        grad = grad_scale * g[i] + term(l2, p[i])
        v = term(alpha, square_avg[i]) + term(one_minus_alpha, grad * grad)
        velocity = term(momentum, momentum_buffer[i]) + grad / (sqrt(v + eps_root) + eps)
        square_avg[i] = v
        momentum_buffer[i] = velocity
        p[i] = term(shrink, p[i]) - term(step_size, velocity)
