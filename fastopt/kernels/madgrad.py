"""MADGRAD."""

import numba
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastopt.kernels.cbrt import cbrt
from fastopt.kernels.term import term


@numba.njit(parallel=True, error_model="numpy")
def madgrad(p, g, grad_sum_sq, s, x0, k):
    grad_scale, l2, shrink, weight, keep, one_minus_momentum, eps = to_fixed_tuple(k, 7)
    for i in prange(p.size):
        param = p[i]
        start = x0[i]
        grad = grad_scale * g[i] + term(l2, param)
        v = grad_sum_sq[i] + term(weight, grad * grad)
        total = s[i] + term(weight, grad)
        start = param if keep == 0 else start
        z = start - total / (cbrt(v) + eps)
        grad_sum_sq[i] = v
        s[i] = total
        x0[i] = start
        p[i] = term(shrink, param) + one_minus_momentum * z
