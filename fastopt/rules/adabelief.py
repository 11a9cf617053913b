"""AdaBelief."""

from math import sqrt
from typing import ClassVar

import numpy as np

from fastopt.declared import LearningRate, NonNegative, UnitInterval
from fastopt.rule import Rule, State


class AdaBelief(Rule):
    """AdaBelief: Adam by the distance of gradients from their average. Zhuang et al., NeurIPS 2020, arXiv:2010.07468::

        m = beta1 m + (1 - beta1) g
        s = beta2 s + (1 - beta2) (g - m)^2 + eps
        p = p - lr (m / (1 - beta1^step)) / (sqrt(s / (1 - beta2^step)) + eps)

    with m the state ``exp_avg`` and s the state ``exp_avg_var``, in which eps accumulates. The weight decay is
    decoupled by default, as in the authors' code; their rectification, as RAdam's, is not done.
    """

    lr: LearningRate = 1e-3
    betas: tuple[UnitInterval, UnitInterval] = (0.9, 0.999)
    eps: NonNegative = 1e-16
    weight_decay: NonNegative = 0.0
    decoupled_weight_decay: bool = True

    ulp = 64
    kernel = "adabelief"
    states: ClassVar = {"exp_avg": 0.0, "exp_avg_var": State(signed=False)}

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

    def reference(self, step, p, g, exp_avg, exp_avg_var):
        lr = self.rate(step)
        p, g = self.decayed(lr, p, g)
        beta1, beta2 = self.betas
        exp_avg = beta1 * exp_avg + (1 - beta1) * g
        exp_avg_var = beta2 * exp_avg_var + (1 - beta2) * (g - exp_avg) ** 2 + self.eps
        average = exp_avg / (1 - beta1**step)
        variance = exp_avg_var / (1 - beta2**step)
        return p - lr * average / (np.sqrt(variance) + self.eps), {"exp_avg": exp_avg, "exp_avg_var": exp_avg_var}
