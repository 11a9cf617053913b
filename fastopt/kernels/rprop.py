"""Rprop."""

import numba
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple


@numba.njit(parallel=True, error_model="numpy")
def rprop(p, g, prev, step_size, k):
    grad_scale, l2, shrink, eta_minus, eta_plus, smallest, largest, zero = to_fixed_tuple(k, 8)
    for i in prange(p.size):
        grad = grad_scale * g[i] + l2 * p[i]
        product = grad * prev[i]
        size = step_size[i]
        grown = size * eta_plus
        shrunk = size * eta_minus
        size = grown if product > zero else (shrunk if product < zero else size)
        size = smallest if size < smallest else size
        size = largest if size > largest else size
        grad = zero if product < zero else grad
        update = size if grad > zero else (-size if grad < zero else grad)
        prev[i] = grad
        step_size[i] = size
        p[i] = shrink * p[i] - update
