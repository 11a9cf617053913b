"""LaProp."""

from math import sqrt
from typing import ClassVar

import numpy as np

from fastopt.declared import LearningRate, NonNegative, UnitInterval
from fastopt.rule import Rule, State


class LaProp(Rule):
    """LaProp: Adam whose momentum is that of normalized gradients. Ziyin, Wang & Ueda, 2020, arXiv:2002.04839::

        v = beta2 v + (1 - beta2) g^2
        m = beta1 m + (1 - beta1) g / (sqrt(v / (1 - beta2^step)) + eps)
        p = p - lr m / (1 - beta1^step)

    with m the state ``exp_avg`` and v the state ``exp_avg_sq``. The authors' code keeps the learning rate in m, which
    makes no difference while it is constant. The weight decay is decoupled by default.
    """

    lr: LearningRate = 4e-4
    betas: tuple[UnitInterval, UnitInterval] = (0.9, 0.999)
    eps: NonNegative = 1e-15
    weight_decay: NonNegative = 0.0
    decoupled_weight_decay: bool = True

    ulp = 128
    kernel = "laprop"
    states: ClassVar = {"exp_avg": 0.0, "exp_avg_sq": State(signed=False)}

    def coefficients(self, step):
        lr = self.rate(step)
        beta1, beta2 = self.betas
        return self.common(lr) | {
            "step_size": lr / (1 - beta1**step),
            "beta1": beta1,
            "one_minus_beta1": 1 - beta1,
            "beta2": beta2,
            "one_minus_beta2": 1 - beta2,
            "root": 1 / sqrt(1 - beta2**step),
            "eps": self.eps,
        }

    def reference(self, step, p, g, exp_avg, exp_avg_sq):
        lr = self.rate(step)
        p, g = self.decayed(lr, p, g)
        beta1, beta2 = self.betas
        exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * g**2
        normalized = g / (np.sqrt(exp_avg_sq / (1 - beta2**step)) + self.eps)
        exp_avg = beta1 * exp_avg + (1 - beta1) * normalized
        return p - lr * exp_avg / (1 - beta1**step), {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
