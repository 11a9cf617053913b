"""The trust ratio of rules that scale the steps of a parameter by its norm."""

import numpy as np


def trust_ratio(weights: np.ndarray, updates: np.ndarray, clip: bool) -> np.ndarray:
    """Norms of parameters over those of updates, at most 1 if asked to ``clip``, and 1 where there is no such ratio.

    There is none where a norm is zero or not finite: an infinite one would stop the parameter for ever.
    """
    ratio = weights / updates
    ratio = np.where((ratio > 0) & np.isfinite(ratio), ratio, 1.0)
    return np.minimum(ratio, 1.0) if clip else ratio
