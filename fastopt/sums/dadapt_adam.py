"""Products of the gradient and DAdaptAdam's s over the root of the second moment, and the magnitudes of the new s."""

from math import sqrt

import numba
import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastopt.kernels.term import term


@numba.njit(error_model="numpy")
def dadapt_adam(p, g, s, exp_avg_sq, k, products, magnitudes):
    grad_scale, l2, root, sum_size, eps, weight = to_fixed_tuple(k, 6)
    for i in range(p.size):
        before = s[i]
        grad = grad_scale * g[i] + term(l2, p[i])
        total = term(root, before) + term(sum_size, grad)
        way = before / (sqrt(exp_avg_sq[i]) + eps)
        way = before if before == 0 else way  # without eps it is 0 / 0 before the first gradient
        products[i] = np.float64(weight) * np.float64(grad) * np.float64(way)
        magnitudes[i] = abs(np.float64(total))
