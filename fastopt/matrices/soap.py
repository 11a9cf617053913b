"""Adam in the eigenbasis of Shampoo's preconditioner."""

from math import prod, sqrt
from typing import Any

import numpy as np


def soap(
    rule: Any, step: int, p: np.ndarray, g: np.ndarray, exp_avg: np.ndarray, exp_avg_sq: np.ndarray, **sides: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """See :class:`fastopt.SOAP`."""
    shape = as_matrix(g.shape)
    g, average, squares = g.reshape(shape), exp_avg.reshape(shape), exp_avg_sq.reshape(shape)
    left, right, direction = sides.get("Q_L"), sides.get("Q_R"), np.zeros_like(g)
    after: dict[str, np.ndarray] = {}
    if step > 1:
        beta1, beta2 = rule.betas
        average = average + (1 - beta1) * (g - average)
        turned = _turned(g, left, right)
        squares = squares + (1 - beta2) * (turned * turned - squares)
        direction = _turned(average, left, right) / (np.sqrt(squares) + rule.eps)
        direction = _turned(direction, left if left is None else left.T, right if right is None else right.T)
        direction *= sqrt(1 - beta2 ** (step - 1)) / (1 - beta1 ** (step - 1))
    for axis, (products, basis) in enumerate((("GG_L", "Q_L"), ("GG_R", "Q_R"))):
        if products not in sides:
            continue
        outer = g @ g.T if axis == 0 else g.T @ g
        gram = sides[products] + (1 - rule.preconditioner_beta) * (outer - sides[products])
        if step == 1:
            turn = _eigenvectors(gram)
        elif (step - 1) % rule.precondition_frequency == 0:
            turn, order = _followed(gram, sides[basis])
            squares = np.take(squares, order, axis)
        else:
            turn = sides[basis]
        after |= {products: gram, basis: turn}
    return direction.reshape(exp_avg.shape), {
        "exp_avg": average.reshape(exp_avg.shape),
        "exp_avg_sq": squares.reshape(exp_avg.shape),
        **after,
    }


def as_matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """A parameter as a matrix: all axes but the first are one."""
    return (prod(shape[:1]), prod(shape[1:]))


def _turned(matrix: np.ndarray, left: np.ndarray | None, right: np.ndarray | None) -> np.ndarray:
    """``left^T matrix right``; a side that has no basis stays as it is."""
    if left is not None:
        matrix = left.T @ matrix
    return matrix if right is None else matrix @ right


def _eigenvectors(gram: np.ndarray) -> np.ndarray:
    """The eigenvectors of a symmetric matrix as columns, those of the largest eigenvalues first."""
    if not np.isfinite(gram).all():  # LAPACK would raise an error, or not come back
        return np.full_like(gram, np.nan)
    return np.linalg.eigh(gram)[1][:, ::-1]


def _followed(gram: np.ndarray, basis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The basis after a step of the power iteration, and the order in which it takes the columns of the one before."""
    moved = gram @ basis
    order = np.argsort(-np.einsum("ij,ij->j", basis, moved), kind="stable")
    if not np.isfinite(moved).all():
        return np.full_like(gram, np.nan), order
    return np.linalg.qr(moved[:, order])[0], order
