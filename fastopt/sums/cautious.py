"""How many elements of an update have the sign of their gradient.

The update's direction is ``grad_size grad + average_size m``, with m the new average of gradients.
"""

import numba
import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastopt.kernels.term import term


@numba.njit(error_model="numpy")
def cautious(p, g, average, k, counts):
    grad_scale, l2, beta, one_minus_beta, grad_size, average_size, zero = to_fixed_tuple(k, 7)
    for i in range(p.size):
        grad = grad_scale * g[i] + term(l2, p[i])
        m = term(beta, average[i]) + term(one_minus_beta, grad)
        direction = term(grad_size, grad) + term(average_size, m)
        counts[i] = np.float64(direction * grad > zero)
