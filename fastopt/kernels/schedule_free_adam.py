"""ScheduleFreeAdamW and ScheduleFreeRAdam."""

from math import sqrt

import numba
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastopt.kernels.term import term


@numba.njit(parallel=True, error_model="numpy")
def schedule_free_adam(p, g, z, exp_avg_sq, k):
    (
        grad_scale,
        l2,
        shrink,
        step_size,
        share,
        pull,
        decay_size,
        beta2,
        one_minus_beta2,
        root,
        eps,
        keep,
    ) = to_fixed_tuple(k, 12)
    for i in prange(p.size):
        param = p[i]
        before = z[i]
        grad = grad_scale * g[i] + term(l2, param)
        v = term(beta2, exp_avg_sq[i]) + one_minus_beta2 * (grad * grad)
        update = grad / (term(root, sqrt(v)) + eps)
        before = param if keep == 0 else before
        shrunk = term(shrink, param)
        # Where they are equal, too: inf - inf is NaN.
        near = shrunk if before == param else shrunk + term(share, before - param)
        exp_avg_sq[i] = v
        z[i] = before - term(decay_size, param) - term(step_size, update)
        p[i] = near - term(pull, update)
