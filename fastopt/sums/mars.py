"""The square of a gradient that is corrected by the one before: for its norm.

``exp_avg`` and ``exp_avg_sq`` are not read.
"""

import numba
import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastopt.kernels.term import term


@numba.njit(error_model="numpy")
def mars(p, g, exp_avg, exp_avg_sq, last_grad, k, squares):
    grad_scale, correction = to_fixed_tuple(k, 2)
    for i in range(p.size):
        grad = grad_scale * g[i]
        corrected = np.float64(grad + term(correction, grad - last_grad[i]))
        squares[i] = corrected * corrected
