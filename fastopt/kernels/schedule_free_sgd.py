"""ScheduleFreeSGD."""

import numba
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastopt.kernels.term import term


@numba.njit(parallel=True, error_model="numpy")
def schedule_free_sgd(p, g, z, k):
    grad_scale, l2, shrink, step_size, share, pull, keep = to_fixed_tuple(k, 7)
    for i in prange(p.size):
        param = p[i]
        before = z[i]
        grad = grad_scale * g[i] + term(l2, param)
        before = param if keep == 0 else before
        # Where they are equal, too: inf - inf is NaN.
        near = param if before == param else param + term(share, before - param)
        z[i] = before - term(step_size, grad)
        p[i] = term(shrink, near) - term(pull, grad)
