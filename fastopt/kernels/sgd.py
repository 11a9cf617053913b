"""Plain gradient descent."""

import numba
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple


@numba.njit(parallel=True, error_model="numpy")
def sgd(p, g, k):
    grad_scale, l2, shrink, step_size = to_fixed_tuple(k, 4)
    for i in prange(p.size):
        grad = grad_scale * g[i] + l2 * p[i]
        p[i] = shrink * p[i] - step_size * grad
