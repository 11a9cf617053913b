"""FTRL-Proximal."""

from math import sqrt

import numba
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastopt.kernels.term import term


@numba.njit(parallel=True, error_model="numpy")
def ftrl(p, g, square_sum, z, k):
    grad_scale, l2, shrink, step_size, offset, l1, zero = to_fixed_tuple(k, 7)
    for i in prange(p.size):
        param = p[i]
        kept = z[i]
        grad = grad_scale * g[i] + term(l2, param)
        n = square_sum[i] + grad * grad
        rate = step_size / (sqrt(n) + offset)
        moved = term(shrink, param) - rate * (grad + (kept if param == zero else zero))
        # The width of zero: a parameter leaves it on the side it is on as it came, on the other side by twice l1.
        once = term(l1, rate)
        side = once if param > zero else (-once if param < zero else zero)
        above = moved - (once - side)
        below = moved + (once + side)
        after = (zero if above < zero else above) + (zero if below > zero else below)
        # The z of where the parameter is; or, if it became zero, of where it was.
        place = param if after == zero else after
        pulled = (-l1 if place > zero else l1) - place / rate
        gathered = grad + (kept if param == zero else pulled)
        square_sum[i] = n
        z[i] = gathered if after == zero else (pulled if rate > zero else kept)
        p[i] = after
