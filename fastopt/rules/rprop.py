"""Rprop."""

from typing import Annotated

import numpy as np

from fastopt.declared import Interval, LearningRate, NonNegative, OpenUnitInterval
from fastopt.rule import Rule, State

Growing = Annotated[float, Interval(1.0, brackets="(]")]
Largest = Annotated[float, Interval(0.0, brackets="(]", finite=False)]


class Rprop(Rule):
    """Rprop: resilient backpropagation, by the signs of full-batch gradients.

    Riedmiller & Braun, ICNN 1993, in the form of ``torch.optim.Rprop`` (no backtracking)::

        s = s etas[1]  where g prev > 0,  s etas[0]  where g prev < 0, clipped to step_sizes
        g = 0          where g prev < 0
        p = p - sign(g) s;  prev = g

    with the states ``prev`` and s ``step_size``, which starts as ``lr``; later values of ``lr`` have no effect. A
    gradient that is NaN has no sign: the parameter stays where it is.
    """

    lr: LearningRate = 1e-2
    etas: tuple[OpenUnitInterval, Growing] = (0.5, 1.2)
    step_sizes: tuple[NonNegative, Largest] = (1e-6, 50.0)

    ulp = 128
    kernel = "rprop"

    def check(self):
        if self.step_sizes[0] > self.step_sizes[1]:
            raise ValueError(f"Rprop: step_sizes must be (smallest, largest), not {self.step_sizes}")

    @property
    def states(self):
        return {"prev": 0.0, "step_size": State(self.rate(1), signed=False)}

    def coefficients(self, step):
        return self.common(0.0) | {
            "eta_minus": self.etas[0],
            "eta_plus": self.etas[1],
            "smallest": self.step_sizes[0],
            "largest": self.step_sizes[1],
            "zero": 0.0,
            "one": 1.0,
        }

    def reference(self, step, p, g, prev, step_size):
        p, g = self.decayed(0.0, p, g)
        agreement = np.sign(g * prev)
        factor = np.where(agreement > 0, self.etas[1], np.where(agreement < 0, self.etas[0], 1.0))
        step_size = np.clip(step_size * factor, *self.step_sizes)
        g = np.where(agreement < 0, 0.0, g)
        move = np.where(g > 0, step_size, np.where(g < 0, -step_size, 0.0))
        return p - move, {"prev": g, "step_size": step_size}
