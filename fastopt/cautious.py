"""Cautious steps: only where an update has the sign of its gradient. Liang et al., 2024, arXiv:2411.16085.

The others are left out, and the rest is larger by the share that is left, as the authors' code and timm have it: by the
number of elements over the number of those that agree, 1000 at most.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

_LEAST = 1e-3  # of the share of elements that agree


def measured(
    values: Mapping[str, float],
    beta: float,
    one_minus_beta: float,
    grad_size: float = 0.0,
    average_size: float = 1.0,
) -> dict[str, float]:
    """The coefficients of the sum ``cautious``, for updates in the direction of ``grad_size g + average_size m``.

    ``beta`` and ``one_minus_beta`` are what m, the new average, takes of the one before and of g.
    """
    return {
        "grad_scale": values["grad_scale"],
        "l2": values["l2"],
        "beta": beta,
        "one_minus_beta": one_minus_beta,
        "grad_size": grad_size,
        "average_size": average_size,
        "zero": 0.0,
    }


def larger(sizes: Any, counts: Any) -> Any:
    """By what steps are multiplied in which so many of so many elements agree."""
    return 1 / np.maximum(counts / np.maximum(sizes, 1), _LEAST)


def masked(update: np.ndarray, direction: np.ndarray, g: np.ndarray) -> np.ndarray:
    """The update for the gradient g: what references make of it."""
    agreeing = direction * g > 0
    return np.where(agreeing, update, 0.0) / max(np.mean(agreeing), _LEAST)
