"""MADGRAD."""

from math import sqrt
from typing import ClassVar

import numpy as np

from fastopt.declared import LearningRate, NonNegative, UnitInterval
from fastopt.rule import Rule, State


class MADGRAD(Rule):
    """MADGRAD: dual averaging with momentum, over the cube root of a sum of squares.

    Defazio & Jelassi, JMLR 23, 2022, arXiv:2101.11075, Algorithm 1::

        l = lr sqrt(step)
        s = s + l g
        v = v + l g^2
        z = x - s / (cbrt(v) + eps)
        p = momentum p + (1 - momentum) z

    with v the state ``grad_sum_sq``, s itself a state, and x the state ``x0``: the parameters before the first step.
    The sums alone say where z is, so parameters go on to move towards it while ``lr`` is zero. The weight decay is
    coupled; the authors recommend less of it than for SGD, or none.

    Elsewhere: the authors' code adds eps to lr, and without momentum computes x from p at every step, which needs no
    state and is less exact. pytorch_optimizer does the same, unless lr is zero.
    """

    lr: LearningRate = 1e-2
    momentum: UnitInterval = 0.9
    eps: NonNegative = 1e-6
    weight_decay: NonNegative = 0.0

    ulp = 16
    starts_from_parameters: ClassVar = True
    kernel = "madgrad"
    states: ClassVar = {"grad_sum_sq": State(signed=False), "s": 0.0, "x0": 0.0}

    def coefficients(self, step):
        return self.common(0.0) | {
            "shrink": self.momentum,
            "weight": self.rate(step) * sqrt(step),
            "keep": 0.0 if step == 1 else 1.0,
            "one_minus_momentum": 1 - self.momentum,
            "eps": self.eps,
        }

    def reference(self, step, p, g, grad_sum_sq, s, x0):
        p, g = self.decayed(0.0, p, g)
        weight = self.rate(step) * np.sqrt(np.array(step, g.dtype))
        x0 = p if step == 1 else x0
        s = s + weight * g
        grad_sum_sq = grad_sum_sq + weight * g**2
        z = x0 - s / (np.cbrt(grad_sum_sq) + self.eps)
        p = self.momentum * p + (1 - self.momentum) * z if self.momentum else z
        return p, {"grad_sum_sq": grad_sum_sq, "s": s, "x0": x0}
