"""StableAdamW."""

from math import sqrt
from typing import ClassVar

import numpy as np

from fastopt.declared import LearningRate, NonNegative, UnitInterval
from fastopt.rule import Rule, State


class StableAdamW(Rule):
    """StableAdamW: AdamW with Adafactor's clipping. Wortsman et al., NeurIPS 2023, arXiv:2304.13013, Algorithm 2::

        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2
        r = sqrt(mean(g^2 / max(v / (1 - beta2^step), eps^2)))
        eta = lr / max(1, r)
        p = p - eta weight_decay p
        p = p - eta (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps)

    with m the state ``exp_avg`` and v the state ``exp_avg_sq``. The mean is that of one parameter, not of all.

    Elsewhere: the states of optimi, which are the corrected averages, are others; its defaults are these.
    """

    lr: LearningRate = 1e-3
    betas: tuple[UnitInterval, UnitInterval] = (0.9, 0.99)
    eps: NonNegative = 1e-6
    weight_decay: NonNegative = 1e-2

    ulp = 128
    kernel = "adam"
    sums = "stable_adamw"
    decoupled_weight_decay: ClassVar = True
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

    def measured(self, step, values):
        names = ("grad_scale", "beta2", "one_minus_beta2")
        correction = 1 / (1 - self.betas[1] ** step)
        return {name: values[name] for name in names} | {"correction": correction, "least": self.eps**2}

    def adapted(self, step, values, sizes, squares):
        smaller = 1 / np.maximum(1.0, np.sqrt(squares / np.maximum(sizes, 1)))
        smaller = np.where(smaller > 0, smaller, 1.0)  # no such mean is finite: a step of zero would hide it
        lr = self.rate(step)
        return {"shrink": 1 - lr * self.weight_decay * smaller, "step_size": values["step_size"] * smaller}

    def reference(self, step, p, g, exp_avg, exp_avg_sq):
        beta1, beta2 = self.betas
        g = -g if self.maximize else g
        exp_avg = beta1 * exp_avg + (1 - beta1) * g
        exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * g**2
        second = exp_avg_sq / (1 - beta2**step)
        rms = np.sqrt((g**2 / np.maximum(second, self.eps**2)).sum() / max(g.size, 1))
        lr = self.rate(step) / max(1.0, rms)
        if self.weight_decay:
            p = p - lr * self.weight_decay * p
        p = p - lr * exp_avg / (1 - beta1**step) / (np.sqrt(second) + self.eps)
        return p, {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
