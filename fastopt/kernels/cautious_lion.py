"""Lion, cautious: no step where the update has not the sign of the gradient."""

import numba
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastopt.kernels.term import term


@numba.njit(parallel=True, error_model="numpy")
def cautious_lion(p, g, exp_avg, k):
    (
        grad_scale,
        l2,
        shrink,
        step_size,
        beta1,
        one_minus_beta1,
        beta2,
        one_minus_beta2,
        zero,
    ) = to_fixed_tuple(k, 9)
    for i in prange(p.size):
        grad = grad_scale * g[i] + term(l2, p[i])
        mixed = term(beta1, exp_avg[i]) + one_minus_beta1 * grad
        update = step_size if mixed > zero else (-step_size if mixed < zero else mixed)
        exp_avg[i] = term(beta2, exp_avg[i]) + one_minus_beta2 * grad
        p[i] = term(shrink, p[i]) - (zero if mixed * grad <= zero else update)
