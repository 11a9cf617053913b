"""Adadelta."""

from typing import ClassVar

import numpy as np

from fastopt.declared import ClosedUnitInterval, LearningRate, NonNegative
from fastopt.rule import Rule, State


class Adadelta(Rule):
    """Adadelta: the ratio of two running root mean squares as step size. Zeiler, 2012, arXiv:1212.5701, Algorithm 1::

        v = rho v + (1 - rho) g^2
        d = sqrt(a + eps) / sqrt(v + eps) g
        a = rho a + (1 - rho) d^2
        p = p - lr d

    with v the state ``square_avg`` and a the state ``acc_delta``.
    """

    lr: LearningRate = 1.0
    rho: ClosedUnitInterval = 0.9
    eps: NonNegative = 1e-6
    weight_decay: NonNegative = 0.0

    ulp = 16
    kernel = "adadelta"
    states: ClassVar = {"square_avg": State(signed=False), "acc_delta": State(signed=False)}

    def coefficients(self, step):
        lr = self.rate(step)
        return self.common(lr) | {
            "step_size": lr,
            "rho": self.rho,
            "one_minus_rho": 1 - self.rho,
            "eps": self.eps,
        }

    def reference(self, step, p, g, square_avg, acc_delta):
        lr = self.rate(step)
        p, g = self.decayed(lr, p, g)
        square_avg = self.rho * square_avg + (1 - self.rho) * g**2
        delta = np.sqrt(acc_delta + self.eps) / np.sqrt(square_avg + self.eps) * g
        acc_delta = self.rho * acc_delta + (1 - self.rho) * delta**2
        return p - lr * delta, {"square_avg": square_avg, "acc_delta": acc_delta}
