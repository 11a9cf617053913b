"""A second moment that is kept as the means of its rows and its columns."""

from math import isfinite, sqrt
from typing import Any

import numpy as np


def adafactor(
    rule: Any,
    step: int,
    p: np.ndarray,
    g: np.ndarray,
    row_var: np.ndarray | None = None,
    col_var: np.ndarray | None = None,
    variance: np.ndarray | None = None,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """See :class:`fastopt.Adafactor`."""
    eps, info = rule.eps[0], np.finfo(g.dtype)
    least = float(info.eps if eps is None else eps)
    weight = step**rule.beta2_decay
    alpha = max(rule.eps[1], _rms(p)) * min(rule.rate(step), 1 / sqrt(step))
    update = np.multiply(g, g, out=np.empty_like(g))
    after: dict[str, np.ndarray] = {}
    if row_var is not None and col_var is not None:
        after["row_var"] = rows = row_var + weight * (_mean(update, -1) - row_var)
        after["col_var"] = columns = col_var + weight * (_mean(update, -2) - col_var)
        rows = rows / np.maximum(_mean(rows, -2), least)
        if g.ndim == 2 and rows.min() * columns.min() > max(least * least, float(info.tiny)):  # none is too small
            left, right = 1 / np.sqrt(rows), 1 / np.sqrt(columns)
            total = float(np.vdot(left * left, update @ (right * right).T))
            if isfinite(total):
                left *= alpha / max(1.0, sqrt(total / g.size) / rule.d)
                np.multiply(left, right, out=update)
                update *= g
                return update, after
        np.multiply(rows, columns, out=update)
    else:
        assert variance is not None
        update -= variance
        update *= weight
        update += variance
        after["variance"] = update.copy()
    np.maximum(update, least * least, out=update)
    np.sqrt(update, out=update)
    np.divide(g, update, out=update)
    update *= alpha / max(1.0, _rms(update) / rule.d)
    return update, after


def _mean(array: np.ndarray, axis: int) -> np.ndarray:
    """The mean along one of the last two axes, which stays. Of a matrix BLAS adds thrice as fast as NumPy."""
    count = array.shape[axis]
    if array.ndim > 2 or min(array.shape) < 2:
        return np.add.reduce(array, axis=axis, keepdims=True) / array.dtype.type(count)
    ones = np.full((1, count), 1 / count, array.dtype)
    return array @ ones.T if axis == -1 else ones @ array


def _rms(array: np.ndarray) -> float:
    """The root of the mean of squares; 0 where there are none."""
    flat = array.reshape(-1)
    return sqrt(float(np.vdot(flat, flat)) / flat.size) if flat.size else 0.0
