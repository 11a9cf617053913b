"""The squares of parameters and of gradients."""

import numba
import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple


@numba.njit(error_model="numpy")
def lars(p, g, k, weights, gradients):
    (grad_scale,) = to_fixed_tuple(k, 1)
    for i in range(p.size):
        weight = np.float64(p[i])
        gradient = np.float64(grad_scale) * np.float64(g[i])
        weights[i] = weight * weight
        gradients[i] = gradient * gradient
