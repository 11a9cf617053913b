"""Gradient descent with a heavy ball."""

import numba
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastopt.kernels.term import term


@numba.njit(parallel=True, error_model="numpy")
def momentum(p, g, momentum_buffer, k):
    grad_scale, l2, shrink, step_size, momentum, one_minus_dampening = to_fixed_tuple(k, 6)
    for i in prange(p.size):
        grad = grad_scale * g[i] + term(l2, p[i])
        velocity = term(momentum, momentum_buffer[i]) + term(one_minus_dampening, grad)
        p[i] = term(shrink, p[i]) - term(step_size, velocity)
        momentum_buffer[i] = velocity
