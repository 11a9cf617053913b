"""The sum of squares of a gradient, for its norm."""

import numba
import numpy as np
from numba import prange

from fastopt.sizes import BLOCK, LANES


@numba.njit(parallel=True, error_model="numpy")
def sum_squares(g, scale, partials):
    """The sum of ``(scale * g)**2`` over each block, in the order of ``csrc/sums/sum_squares.h``."""
    lanes = np.uint64(LANES)
    for block in prange(partials.size):
        start = np.uint64(block) * np.uint64(BLOCK)
        count = min(np.uint64(BLOCK), np.uint64(g.size) - start)
        rows = count // lanes
        sums = np.zeros(LANES)
        for _ in range(rows):
            for lane in range(lanes):
                x = scale * np.float64(g[start + lane])
                sums[lane] += x * x
            start += lanes
        for lane in range(count - rows * lanes):
            x = scale * np.float64(g[start + lane])
            sums[lane] += x * x
        half = LANES // 2
        while half > 0:
            for lane in range(half):
                sums[lane] += sums[lane + half]
            half //= 2
        partials[block] = sums[0]
