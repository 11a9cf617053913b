"""Adamax."""

from typing import ClassVar

import numpy as np

from fastopt.declared import LearningRate, NonNegative, UnitInterval
from fastopt.rule import Rule, State


class Adamax(Rule):
    """Adamax: Adam by the infinity norm. Kingma & Ba, ICLR 2015, arXiv:1412.6980, Algorithm 2::

        m = beta1 m + (1 - beta1) g
        u = max(beta2 u, |g| + eps)
        p = p - lr / (1 - beta1^step) m / u

    with m the state ``exp_avg`` and u the state ``exp_inf``.
    """

    lr: LearningRate = 2e-3
    betas: tuple[UnitInterval, UnitInterval] = (0.9, 0.999)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0

    ulp = 32
    kernel = "adamax"
    states: ClassVar = {"exp_avg": 0.0, "exp_inf": State(signed=False)}

    def coefficients(self, step):
        lr = self.rate(step)
        beta1, beta2 = self.betas
        return self.common(lr) | {
            "step_size": lr / (1 - beta1**step),
            "beta1": beta1,
            "one_minus_beta1": 1 - beta1,
            "beta2": beta2,
            "eps": self.eps,
        }

    def reference(self, step, p, g, exp_avg, exp_inf):
        lr = self.rate(step)
        p, g = self.decayed(lr, p, g)
        beta1, beta2 = self.betas
        exp_avg = beta1 * exp_avg + (1 - beta1) * g
        exp_inf = np.maximum(beta2 * exp_inf, np.abs(g) + self.eps)
        return p - lr / (1 - beta1**step) * exp_avg / exp_inf, {"exp_avg": exp_avg, "exp_inf": exp_inf}
