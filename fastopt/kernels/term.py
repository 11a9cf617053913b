"""A product that stands for a term of a sum which may not be there."""

import numba


@numba.njit(error_model="numpy")
def term(c, x):
    """``c * x``, or ``c`` itself where it is zero: then 0 * x would be NaN for an ``x`` that is infinite."""
    return c * x if c != 0 else c
