"""SophiaG, and its estimate of the Hessian."""

import numba
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastopt.kernels.term import term


@numba.njit(parallel=True, error_model="numpy")
def sophiag(p, g, exp_avg, hessian, k):
    (
        grad_scale,
        l2,
        shrink,
        step_size,
        curvature,
        eps,
        beta1,
        one_minus_beta1,
        beta2,
        one_minus_beta2,
        keep,
        one,
    ) = to_fixed_tuple(k, 12)
    for i in prange(p.size):
        param = p[i]
        before = exp_avg[i]
        h = hessian[i]
        grad = grad_scale * g[i] + term(l2, param)
        m = before if keep == 0 else term(beta1, before) + one_minus_beta1 * grad
        ratio = m / (term(curvature, h) + eps)
        ratio = one if ratio > one else ratio
        ratio = -one if ratio < -one else ratio
        exp_avg[i] = m
        hessian[i] = term(beta2, h) + one_minus_beta2 * (grad * grad) if keep == 0 else h
        p[i] = param if keep == 0 else term(shrink, param) - term(step_size, ratio)
