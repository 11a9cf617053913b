"""A gradient's norm, and the limit that it is held to."""

import math
from typing import Any, NamedTuple

from fastopt.declared import real
from fastopt.errors import quoted

_CLIP_EPS = 1e-6  # as in torch.nn.utils.clip_grad_norm_


class Norm(NamedTuple):
    """A gradient's norm: ``scaled`` is the norm times ``unit``, a power of two, where a float may not hold it."""

    scaled: float
    unit: float = 1.0

    @property
    def value(self) -> float:
        """The norm: infinite where it is too large for a float, infinite or NaN where the gradient is not finite."""
        return self.scaled / self.unit

    @property
    def finite(self) -> bool:
        """Whether all of the gradient's numbers are finite."""
        return math.isfinite(self.scaled)

    def clip(self, max_norm: float) -> float:
        """By what a gradient is multiplied, so that its norm is at most ``max_norm``."""
        norm = self.value
        if norm + _CLIP_EPS <= max_norm:
            return 1.0
        if math.isinf(norm):
            return max_norm * self.unit / self.scaled
        return max_norm / (norm + _CLIP_EPS)


def check_limit(name: str, value: Any) -> float:
    """The largest norm that a gradient may have. TypeError or ValueError, which name the argument, if it is none."""
    number = real(name, value, "a number > 0 or None")
    if not number > 0:
        raise ValueError(f"{name} must be a number > 0 or None, not {quoted(value)}")
    return number
