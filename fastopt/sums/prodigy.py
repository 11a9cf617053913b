"""Products of the gradient and the way back to where the parameters started, and the magnitudes of Prodigy's new s."""

import numba
import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastopt.kernels.term import term


@numba.njit(error_model="numpy")
def prodigy(p, g, s, p0, k, products, magnitudes):
    grad_scale, l2, beta3, sum_size, keep, weight = to_fixed_tuple(k, 6)
    for i in range(p.size):
        param = p[i]
        start = p0[i]
        grad = grad_scale * g[i] + term(l2, param)
        total = term(beta3, s[i]) + term(sum_size, grad)
        start = param if keep == 0 else start
        away = np.float64(start) - np.float64(param)
        away = 0.0 if start == param else away  # where both are infinite, too
        products[i] = np.float64(weight) * np.float64(grad) * away
        magnitudes[i] = abs(np.float64(total))
