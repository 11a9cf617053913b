"""Floating-point formats of few bits: their values, and rounding to them, by definition and in float64.

A code's sign is left out here. With ``m`` mantissa bits, the code ``e * 2**m + f`` means
``(1 + f / 2**m) * 2**(e - bias)``, or ``f / 2**m * 2**(1 - bias)`` if the exponent e is zero: gradual underflow. So
codes rise as their values do, and a number has a *position* among them: 5.25 is a quarter of the way from code 5 to
code 6. Numbers are float32, hence positions are exact.
"""

from functools import cache

import numpy as np


@cache
def values(codes: int, mantissa: int, bias: int) -> np.ndarray:
    """The values of the first ``codes`` codes, and of the one after them, which is where overflow begins."""
    exponent, fraction = np.divmod(np.arange(codes + 1), 2**mantissa)
    significand = fraction / 2**mantissa + (exponent > 0)
    return np.ldexp(significand, np.maximum(exponent, 1) - bias)


def nearest(magnitudes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The codes nearest to the magnitudes, ties to even; beyond all of them the one after the last."""
    return np.rint(_positions(magnitudes, values)).astype(np.uint32)


def stochastic(magnitudes: np.ndarray, values: np.ndarray, mantissa: int, noise: np.ndarray) -> np.ndarray:
    """The codes below the magnitudes, or above them as often as they are near to those.

    A position has as many bits behind the point as a float32's mantissa has more than the code's: that is exact but for
    subnormal codes, where it is rounded to nearest even. The 16 bits of noise are added to the first 16 of them, or as
    many as there are, and what is behind the point is dropped.
    """
    bits = 23 - mantissa
    positions = np.rint(np.ldexp(_positions(magnitudes, values), bits)).astype(np.int64)
    random = np.asarray(noise).astype(np.int64) << bits >> 16
    return (positions + random >> bits).astype(np.uint32)


def _positions(magnitudes: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.interp(magnitudes, values, np.arange(values.size))  # the distances of values are powers of two
