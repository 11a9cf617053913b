"""The squares of the parameters, and of LAMB's update before it is scaled."""

from math import sqrt

import numba
import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastopt.kernels.term import term


@numba.njit(error_model="numpy")
def lamb(p, g, exp_avg, exp_avg_sq, k, weights, updates):
    grad_scale, decay, step_size, beta1, one_minus_beta1, beta2, one_minus_beta2, root, eps = to_fixed_tuple(k, 9)
    for i in range(p.size):
        grad = grad_scale * g[i]
        m = term(beta1, exp_avg[i]) + one_minus_beta1 * grad
        v = term(beta2, exp_avg_sq[i]) + one_minus_beta2 * (grad * grad)
        weight = np.float64(p[i])
        update = np.float64(term(step_size, m) / (term(root, sqrt(v)) + eps) + term(decay, p[i]))
        weights[i] = weight * weight
        updates[i] = update * update
