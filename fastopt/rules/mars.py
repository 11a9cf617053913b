"""MARS."""

from math import sqrt
from typing import ClassVar

import numpy as np

from fastopt.declared import LearningRate, NonNegative, UnitInterval
from fastopt.rule import Rule, State


class MARS(Rule):
    """MARS: AdamW by gradients of reduced variance. Yuan et al., ICML 2025, arXiv:2411.10438, MARS-AdamW::

        c = g + gamma beta1 / (1 - beta1) (g - h);  h = g    (c = g in the first step)
        c = c / max(1, ||c||)
        m = beta1 m + (1 - beta1) c
        v = beta2 v + (1 - beta2) c^2
        p = p - lr ((m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps) + weight_decay p)

    with m the state ``exp_avg``, v ``exp_avg_sq`` and h ``last_grad``. The norm is that of one parameter, not of all.

    Elsewhere: the authors' code and timm leave vectors to AdamW (here: a group of its own for them), and the authors'
    takes h for zero in the first step. Betas are timm's.
    """

    lr: LearningRate = 3e-3
    betas: tuple[UnitInterval, UnitInterval] = (0.9, 0.99)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    gamma: NonNegative = 0.025

    ulp = 128
    kernel = "mars"
    sums = "mars"
    decoupled_weight_decay: ClassVar = True
    states: ClassVar = {"exp_avg": 0.0, "exp_avg_sq": State(signed=False), "last_grad": 0.0}

    def coefficients(self, step):
        lr = self.rate(step)
        beta1, beta2 = self.betas
        return self.common(lr) | {
            "step_size": lr / (1 - beta1**step),
            "correction": 0.0 if step == 1 else self.gamma * beta1 / (1 - beta1),
            "clip": 1.0,
            "beta1": beta1,
            "one_minus_beta1": 1 - beta1,
            "beta2": beta2,
            "one_minus_beta2": 1 - beta2,
            "root": 1 / sqrt(1 - beta2**step),
            "eps": self.eps,
        }

    def measured(self, step, values):
        return {name: values[name] for name in ("grad_scale", "correction")}

    def adapted(self, step, values, sizes, squares):
        return {"clip": 1 / np.maximum(1.0, np.sqrt(squares))}

    def reference(self, step, p, g, exp_avg, exp_avg_sq, last_grad):
        beta1, beta2 = self.betas
        lr = self.rate(step)
        p, g = self.decayed(lr, p, g)
        corrected = g if step == 1 else g + self.gamma * beta1 / (1 - beta1) * (g - last_grad)
        corrected = corrected / max(1.0, np.sqrt((corrected**2).sum()))
        exp_avg = beta1 * exp_avg + (1 - beta1) * corrected
        exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * corrected**2
        update = exp_avg / (1 - beta1**step) / (np.sqrt(exp_avg_sq / (1 - beta2**step)) + self.eps)
        return p - lr * update, {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq, "last_grad": g}
