"""MADGRAD."""

from math import sqrt

import numba
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple

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
        # The cube root of v. It is v^(1/4 + 1/16 + 1/64 + ...): five factors are right to a quarter, whatever the
        # exponent of a float64. Then three steps of Halley's method, each of which has thrice the digits.
        fourth = sqrt(sqrt(v))
        root = fourth * sqrt(sqrt(fourth))
        root = fourth * sqrt(sqrt(root))
        root = fourth * sqrt(sqrt(root))
        root = fourth * sqrt(sqrt(root))
        quotient = v / (root * root)
        root = root + root * ((quotient - root) / (root + root + quotient))
        quotient = v / (root * root)
        root = root + root * ((quotient - root) / (root + root + quotient))
        quotient = v / (root * root)
        root = root + root * ((quotient - root) / (root + root + quotient))
        root = root if root >= 0 else fourth  # of zero, infinity and NaN, which are their own roots
        z = start - total / (root + eps)
        grad_sum_sq[i] = v
        s[i] = total
        x0[i] = start
        p[i] = term(shrink, param) + one_minus_momentum * z
