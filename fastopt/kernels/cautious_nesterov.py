"""Nesterov's accelerated gradient, cautious: no step where the update has not the sign of the gradient."""

import numba
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastopt.kernels.term import term


@numba.njit(parallel=True, error_model="numpy")
def cautious_nesterov(p, g, momentum_buffer, k):
    grad_scale, l2, shrink, step_size, momentum, zero = to_fixed_tuple(k, 6)
    for i in prange(p.size):
        grad = grad_scale * g[i] + term(l2, p[i])
        velocity = term(momentum, momentum_buffer[i]) + grad
        ahead = grad + term(momentum, velocity)
        momentum_buffer[i] = velocity
        p[i] = term(shrink, p[i]) - (zero if ahead * grad <= zero else term(step_size, ahead))
