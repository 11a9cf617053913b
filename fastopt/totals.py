"""Sums over all parameters, from those over each."""

import math
from collections.abc import Sequence

import numpy as np


def total(sums: Sequence[np.ndarray]) -> tuple[float, ...]:
    """The total of each number, from arrays with a row for each parameter and a column for each number.

    It is rounded once: how parameters are ordered, and divided into groups, does not show. Where it is no float, it is
    NaN.
    """
    return tuple(map(_total, np.concatenate(sums).T.tolist())) if sums else ()


def _total(numbers: list[float]) -> float:
    try:
        return math.fsum(numbers)
    except (OverflowError, ValueError):  # beyond every float, or infinities of both signs
        return math.nan
