"""ADOPT."""

from typing import ClassVar

import numpy as np

from fastopt.declared import LearningRate, NonNegative, Positive, UnitInterval
from fastopt.rule import Rule, State


class ADOPT(Rule):
    """ADOPT: Adam whose gradient is not in its own second moment. Taniguchi et al., NeurIPS 2024, arXiv:2411.02853::

        step 1: v = g^2, and nothing else; then
        m = beta1 m + (1 - beta1) clip(g / max(sqrt(v), eps), (step - 1)^(1/4))
        p = p - lr m
        v = beta2 v + (1 - beta2) g^2

    with m the state ``exp_avg`` and v the state ``exp_avg_sq``; clip(x, c) is the nearest number to x in [-c, c].
    """

    lr: LearningRate = 1e-3
    betas: tuple[UnitInterval, UnitInterval] = (0.9, 0.9999)
    eps: Positive = 1e-6
    weight_decay: NonNegative = 0.0
    decoupled_weight_decay: bool = False

    ulp = 64
    kernel = "adopt"
    states: ClassVar = {"exp_avg": 0.0, "exp_avg_sq": State(signed=False)}

    def coefficients(self, step):
        lr = self.rate(step)
        beta1, beta2 = self.betas
        first = step == 1
        return self.common(0.0 if first else lr) | {
            "step_size": lr,
            "beta1": beta1,
            "one_minus_beta1": 1 - beta1,
            "beta2": beta2,
            "one_minus_beta2": 1.0 if first else 1 - beta2,
            "eps": self.eps,
            "largest": (step - 1) ** 0.25,  # zero in the first step: m stays what it is, zero
        }

    def reference(self, step, p, g, exp_avg, exp_avg_sq):
        lr = self.rate(step)
        if step == 1:
            _, g = self.decayed(lr, p, g)
            return p, {"exp_avg": exp_avg, "exp_avg_sq": g**2}
        p, g = self.decayed(lr, p, g)
        beta1, beta2 = self.betas
        normalized = g / np.maximum(np.sqrt(exp_avg_sq), self.eps)
        largest = (step - 1) ** 0.25
        exp_avg = beta1 * exp_avg + (1 - beta1) * np.clip(normalized, -largest, largest)
        return p - lr * exp_avg, {"exp_avg": exp_avg, "exp_avg_sq": beta2 * exp_avg_sq + (1 - beta2) * g**2}
