"""Nesterov's accelerated gradient."""

import numba
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple


@numba.njit(parallel=True, error_model="numpy")
def nesterov(p, g, momentum_buffer, k):
    grad_scale, l2, shrink, step_size, momentum = to_fixed_tuple(k, 5)
    for i in prange(p.size):
        grad = grad_scale * g[i] + l2 * p[i]
        velocity = momentum * momentum_buffer[i] + grad
        momentum_buffer[i] = velocity
        p[i] = shrink * p[i] - step_size * (grad + momentum * velocity)
