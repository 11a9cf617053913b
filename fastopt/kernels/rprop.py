"""Rprop."""

import numba
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastopt.kernels.term import term


@numba.njit(parallel=True, error_model="numpy")
def rprop(p, g, prev, step_size, k):
    grad_scale, l2, shrink, eta_minus, eta_plus, smallest, largest, zero, one = to_fixed_tuple(k, 9)
    for i in prange(p.size):
        grad = grad_scale * g[i] + term(l2, p[i])
        product = grad * prev[i]
        factor = eta_plus if product > zero else (eta_minus if product < zero else one)
        size = step_size[i] * factor
        size = smallest if size < smallest else size
        size = largest if size > largest else size
        grad = zero if product < zero else grad
        update = size if grad > zero else (-size if grad < zero else zero)  # none for NaN
        prev[i] = grad
        step_size[i] = size
        p[i] = term(shrink, p[i]) - update
