"""A gradient's norm, and the limit that it is held to."""

import math
from typing import Any, NamedTuple, Self

from fastopt.declared import real
from fastopt.errors import quoted

_CLIP_EPS = 1e-6  # as in torch.nn.utils.clip_grad_norm_


class Norm(NamedTuple):
    """A gradient's norm.

    ``value`` is infinite where it is too large for a float, or the gradient is not ``finite``, all of its numbers.
    ``scaled`` is the norm times ``unit``, a power of two, where it may be beyond the numbers that a float can hold.
    """

    value: float
    finite: bool
    scaled: float
    unit: float

    @classmethod
    def of(cls, scaled: float, unit: float = 1.0) -> Self:
        """The norm that is ``scaled`` when multiplied by ``unit``."""
        return cls(scaled / unit, math.isfinite(scaled), scaled, unit)

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
