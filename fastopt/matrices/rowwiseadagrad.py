"""A sum of squares for each row."""

from typing import Any

import numpy as np


def rowwiseadagrad(
    rule: Any, step: int, p: np.ndarray, g: np.ndarray, sum: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """See :class:`fastopt.RowwiseAdagrad`."""
    rows = g.reshape(sum.size, -1)
    update = np.square(rows)
    after = sum + np.mean(update, axis=1).reshape(sum.shape)
    np.divide(rows, np.sqrt(after).reshape(-1, 1) + g.dtype.type(rule.eps), out=update)
    return update.reshape(g.shape), {"sum": after}
