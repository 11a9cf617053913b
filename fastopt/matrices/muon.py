"""Momentum, orthogonalized."""

from math import sqrt
from typing import Any

import numpy as np


def muon(
    rule: Any, step: int, p: np.ndarray, g: np.ndarray, momentum_buffer: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """See :class:`fastopt.Muon`."""
    momentum = momentum_buffer + (1 - rule.momentum) * (g - momentum_buffer)
    update = g + rule.momentum * (momentum - g) if rule.nesterov else momentum
    scale = rule.adjustment(g.shape)
    return scale * orthogonalized(update, rule.ns_coefficients, rule.ns_steps, rule.eps), {"momentum_buffer": momentum}


def orthogonalized(matrix: np.ndarray, coefficients: tuple[float, float, float], steps: int, eps: float) -> np.ndarray:
    """A matrix whose singular values have been brought near 1 by a quintic iteration of Newton and Schulz.

    It is iterated on the shorter side. Where the longer one is more than twice as long, it is done with the matrix of
    products of rows alone, and one product with the matrix itself is left (the "Gram" form).
    """
    a, b, c = coefficients
    tall = matrix.shape[0] > matrix.shape[1]
    x = np.ascontiguousarray(matrix.T if tall else matrix)
    rows, columns = x.shape
    x = x * float(np.divide(1.0, max(sqrt(np.vdot(x, x)), eps)))  # infinity, where Python would refuse to divide
    if columns > 2 * rows and steps > 1:
        x = _product(x @ x.T, a, b, c, steps) @ x
    else:
        gram, inner, after = np.empty((rows, rows), x.dtype), np.empty((rows, rows), x.dtype), np.empty_like(x)
        for _ in range(steps):
            np.matmul(x, x.T, out=gram)
            x, after = np.matmul(_inner(gram, inner, a, b, c), x, out=after), x
    return x.T if tall else x


def _inner(gram: np.ndarray, out: np.ndarray, a: float, b: float, c: float) -> np.ndarray:
    """``a I + b gram + c gram gram`` of a symmetric matrix, which is overwritten."""
    np.matmul(gram, gram.T, out=out)  # of a matrix and its own transpose BLAS computes one half
    out *= c
    gram *= b
    out += gram
    out.reshape(-1)[:: len(out) + 1] += a
    return out


def _product(gram: np.ndarray, a: float, b: float, c: float, steps: int) -> np.ndarray:
    """The product of all steps' factors. They are polynomials of one symmetric matrix, and commute."""
    factor = _inner(gram.copy(), np.empty_like(gram), a, b, c)
    product = factor
    for _ in range(steps - 1):
        gram = factor @ gram @ factor
        factor = _inner(gram.copy(), np.empty_like(gram), a, b, c)
        product = factor @ product
    return product
