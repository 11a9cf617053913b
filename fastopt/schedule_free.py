"""What schedule-free rules have in common: which average of their iterates parameters stand for, and its weights."""

from collections.abc import Mapping
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fastopt.declared import NonNegative
from fastopt.errors import quoted
from fastopt.rule import Rule

_ONE_BY_ONE = 1000  # steps whose weights are added as steps add them
_BLOCK = 4096


class ScheduleFree(Rule):
    """The base of rules after Defazio et al., NeurIPS 2024, arXiv:2405.15682. There are three sequences::

        z = z - lr_t u                             (u: what the rule makes of the gradient at y)
        x = (1 - c) x + c z,  c = w / W            (the average: what the model is evaluated with)
        y = (1 - beta) z + beta x                  (where gradients are taken)

        w = step^r lr_max^weight_lr_power;  W = W + w;  lr_max = max(lr_max, lr_t)

    Parameters are y, z is a state, and x follows from both. A subclass gives the fields ``r`` and ``weight_lr_power``,
    ``averaging``, which is beta, and ``warmup_steps``, or :meth:`size`, which is lr_t, and ``settled`` of its own.
    """

    if TYPE_CHECKING:
        warmup_steps: NonNegative = 0.0
        r: NonNegative = 0.0
        weight_lr_power: NonNegative = 2.0

    averages: ClassVar = True
    starts_from_parameters: ClassVar = True
    torch_float64: ClassVar = ("weight_sum", "lr_max")

    @property
    def averaging(self) -> float:
        """How near to the average gradients are taken: beta, in (0, 1)."""
        raise NotImplementedError(f"{type(self).__name__} declares no averaging")

    def size(self, step: int) -> float:
        """The step size of a step (counted from 1), warm-up included."""
        lr = self.rate(step)
        return lr * step / self.warmup_steps if step < self.warmup_steps else lr

    @property
    def settled(self) -> float:
        """The step from which on the step size stays the same if ``lr`` does."""
        return self.warmup_steps

    @property
    def scalars(self) -> Mapping[str, float]:
        return {"weight_sum": 0.0, "lr_max": 0.0}

    def advance(self, step: int, weight_sum: Any, lr_max: Any) -> dict[str, float]:
        lr_max = max(lr_max, type(lr_max)(self.size(step)))
        return {"weight_sum": weight_sum + self._weight(step, lr_max), "lr_max": lr_max}

    def _weight(self, step: int, lr_max: float) -> float:
        try:
            weight = lr_max**self.weight_lr_power
            weight = step**self.r * weight if self.r else weight
        except OverflowError:
            weight = inf
        if weight == inf:  # a share of it would be NaN
            raise ValueError(f"{quoted(self)}: too large for float64: the weight of step {step}")
        return weight

    def scalars_after(self, steps: int) -> dict[str, float]:
        last = steps if callable(self.lr) else min(steps, max(_ONE_BY_ONE, int(self.settled) + 1))
        weight_sum, lr_max = 0.0, 0.0
        for step in range(1, last + 1):  # as advance does
            lr_max = max(lr_max, self.size(step))
            weight_sum += self._weight(step, lr_max)
        weight = lr_max**self.weight_lr_power
        for first in range(last + 1, steps + 1, _BLOCK):
            numbers = np.arange(first, min(first + _BLOCK, steps + 1), dtype=np.float64)
            weight_sum += weight * float((numbers**self.r).sum())
        return {"weight_sum": weight_sum, "lr_max": lr_max}

    def share(self, step: int, weight_sum: Any, lr_max: Any) -> float:
        """The weight c of z in the average at a step, given the scalars before it, or None for both."""
        if weight_sum is None:
            weight_sum, lr_max = self.scalars_after(step - 1).values()
        lr_max = max(float(lr_max), self.size(step))
        weight = self._weight(step, lr_max)
        total = float(weight_sum) + weight
        return weight / total if total else 0.0

    def averaged(self, p: np.ndarray, states: Mapping[str, np.ndarray]) -> np.ndarray:
        """x, the average: ``y + (1 - 1 / beta) (z - y)``."""
        z = states["z"]
        with np.errstate(all="ignore"):
            moved = p + p.dtype.type(1 - 1 / self.averaging) * (z - p)
        return np.where(z == p, p, moved)  # inf - inf is NaN
