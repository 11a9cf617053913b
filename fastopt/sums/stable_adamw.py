"""The squares of gradients over their second moments, which are ``least`` at least."""

import numba
import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastopt.kernels.term import term


@numba.njit(error_model="numpy")
def stable_adamw(p, g, exp_avg, exp_avg_sq, k, squares):
    grad_scale, beta2, one_minus_beta2, correction, least = to_fixed_tuple(k, 5)
    for i in range(p.size):
        grad = grad_scale * g[i]
        second = correction * (term(beta2, exp_avg_sq[i]) + one_minus_beta2 * (grad * grad))
        ratio = (grad * grad) / (least if second < least else second)
        squares[i] = np.float64(ratio)
