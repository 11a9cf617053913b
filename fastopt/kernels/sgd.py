"""Plain gradient descent."""

import numba
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastopt.kernels.term import term


@numba.njit(parallel=True, error_model="numpy")
def sgd(p, g, k):
    grad_scale, l2, shrink, step_size = to_fixed_tuple(k, 4)
    for i in prange(p.size):
        grad = grad_scale * g[i] + term(l2, p[i])
        p[i] = term(shrink, p[i]) - term(step_size, grad)
